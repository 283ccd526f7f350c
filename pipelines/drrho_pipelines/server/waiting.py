"""Waiting for a run to its end, through lost connections and tokens that run out, and saying why it failed."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

from drrho_clip.errors import DrrhoError, NotKnown, RunFailed, StoppedWaiting
from drrho_clip.observe import get_logger
from drrho_components.steps import FAILED as STEP_FAILED
from drrho_pipelines.server.connection import UNAUTHORIZED, Refused, Server
from drrho_pipelines.server.steps import CANCELED, ENDED, SUCCEEDED, Step, first_failed, run_state, run_steps
from drrho_pipelines.server.tokens import NoToken

EVERY = 5.0
"""Seconds between two looks at a run."""
PATIENCE = 600.0
"""Seconds without an answer after which the end of a run is not known."""
LONGEST_PAUSE = 30.0
LAG = 15.0
"""Seconds that the server's list of steps may lag behind the run's state: a failed run's may still be shown as running."""
LAST_LINES = 20
EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)\b.*")


def wait_for(
    server: Server, run_id: str, *, timeout: float | None = None, every: float = EVERY, patience: float = PATIENCE
) -> Any:
    """Return the run when it has succeeded; each step that changes its state is logged.

    Raises RunFailed (with the failed step and its reason; its last lines go to stderr), NotKnown after `timeout` seconds or
    `patience` seconds without an answer, and StoppedWaiting after Ctrl-C. The run itself goes on in the last two cases.
    """
    watch = _Watch(server, run_id, patience)
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    try:
        while (state := watch.look(deadline)) not in ENDED:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotKnown(f"The run is {state} after {timeout} seconds", where=server.link(run_id), fix=_goes_on(run_id))
            time.sleep(min(every, left))
        watch.catch_up(every)
    except KeyboardInterrupt:
        fix = f"The run goes on. To end it: drrho pipeline cancel {run_id}"
        raise StoppedWaiting("Stopped waiting", where=server.link(run_id), fix=fix) from None
    if state != SUCCEEDED:
        raise _failure(server, watch.run, state)
    return watch.run


class _Watch:
    """One run, looked at again and again."""

    def __init__(self, server: Server, run_id: str, patience: float) -> None:
        self._server, self._run_id, self._patience = server, run_id, patience
        self._shown: dict[str, str] = {}
        self.run: Any = None

    def look(self, deadline: float = float("inf")) -> str:
        """Ask for the run until there is an answer, log what changed, and return its state."""
        self.run = self._answered(deadline)
        for name, state in (("", run_state(self.run)), *((step.name, step.state) for step in run_steps(self.run))):
            if self._shown.get(name) != state:
                self._shown[name] = state
                get_logger().info("step_state" if name else "run_state", **({"step": name} if name else {}), state=state)
        return self._shown[""]

    def catch_up(self, every: float) -> None:
        """Look on until the server shows which step of the ended run failed, or that all have ended."""
        limit = time.monotonic() + LAG
        while time.monotonic() < limit and not self._settled():
            time.sleep(min(every, 1.0))
            self.look()

    def _settled(self) -> bool:
        steps = run_steps(self.run)
        return first_failed(steps) is not None or all(step.state in ENDED for step in steps)

    def _answered(self, deadline: float) -> Any:
        lost_since: float | None = None
        pause = 1.0
        while True:
            try:
                return self._server.ask(self._server.client.get_run, self._run_id)
            except (NotKnown, NoToken, Refused) as error:
                if isinstance(error, Refused) and error.status != UNAUTHORIZED:
                    raise
                now = time.monotonic()
                lost_since = lost_since or now
                if now + pause > min(lost_since + self._patience, deadline):
                    raise NotKnown(error.what, where=error.where, fix=_goes_on(self._run_id)) from None
                get_logger().warning("no_answer", reason=error.what, next_try_seconds=pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _goes_on(run_id: str) -> str:
    return f"The run itself goes on; to wait again: drrho pipeline status {run_id} --wait"


def _failure(server: Server, run: Any, state: str) -> RunFailed:
    if state == CANCELED:
        return RunFailed("The run was cancelled", where=server.link(run.run_id))
    step = first_failed(run_steps(run))
    if step is None:
        return RunFailed(f"The run ended as {state}, and no step says why", where=server.link(run.run_id))
    log = step_log(server, run.run_id, step)
    for line in log.lines[-LAST_LINES:]:
        print(f"  {step.name} | {line}", file=sys.stderr, flush=True)
    return RunFailed(f"The step '{step.name}' failed: {log.reason}", where=server.link(run.run_id))


@dataclass(frozen=True)
class Log:
    """The log of a step: its lines (none where it is gone), and what they say about why it failed."""

    lines: list[str]
    reason: str


def step_log(server: Server, run_id: str, step: Step) -> Log:
    """The log of the step's last pod. Where the server has it no longer, `reason` says where it may be."""
    try:
        text = server.ask(server.client.read_log, run_id, step.pods[-1])
    except DrrhoError as error:
        place = f"look for its executor-logs in the store of the run's artifacts, under {run_id}"
        return Log([], f"its log cannot be had ({error.what}); {place}")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return Log(lines, _reason(lines))


def _reason(lines: list[str]) -> str:
    """Our own line that says why a step failed, else the last exception, else the last line."""
    for line in reversed(lines):
        if f'"{STEP_FAILED}"' in line:
            try:
                return str(json.loads(line[line.index("{") :])["error"])
            except (ValueError, LookupError, TypeError):
                continue
    exceptions = (match[0] for line in reversed(lines) if (match := EXCEPTION.match(line.strip())))
    return next(exceptions, lines[-1].strip() if lines else "its log is empty")
