"""One run while it is executed: what a runner is given, and what the server tells of it."""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Callable
from typing import Any

from kfp_stand_in.nodes import Nodes, Path, now

Runner = Callable[["Execution"], None]
PLURAL = 5


class Execution:
    """A run: its compiled pipeline (`spec`, `platform`), all its parameters, and its steps.

    A runner calls `begin`, `write` and `end` for each step, and returns when there is nothing more to do, or when `cancelled`
    is set. A step that ended as FAILED makes the run fail.
    """

    def __init__(self, run_id: str, spec: dict[str, Any], platform: dict[str, Any], parameters: dict[str, Any]) -> None:
        self.run_id, self.spec, self.platform, self.parameters = run_id, spec, platform, parameters
        suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=PLURAL))
        self.workflow = f"{spec['pipelineInfo']['name']}-{suffix}"
        self.cancelled = threading.Event()
        self.state_history = [("PENDING", now())]
        self.finished = "1970-01-01T00:00:00Z"
        self.read_log: Callable[[str], str] = self._written
        self._nodes: Nodes | None = None
        self._logs: dict[str, str] = {}
        self._pods: dict[Path, str] = {}
        self._failed = False
        self._cancelling = ""
        self._stale: list[dict[str, Any]] | None = None
        self._lock = threading.RLock()

    @property
    def state(self) -> str:
        """The state of the run."""
        return "CANCELING" if self._cancelling and not self.ended else self.state_history[-1][0]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state_history[-1][0] in ("SUCCEEDED", "FAILED")

    def start(self, runner: Runner, may_start: threading.Event) -> None:
        """Execute the run in a thread of its own, once it may start."""
        threading.Thread(target=self._execute, args=(runner, may_start), daemon=True, name=self.workflow).start()

    def prepare(self, *step: str | int) -> None:
        """A step's driver works, its pod does not yet."""
        with self._lock:
            assert self._nodes is not None
            self._nodes.prepare(step)

    def begin(self, *step: str | int, attempt: int = 0) -> str:
        """A step begins; returns the name of its pod."""
        with self._lock:
            assert self._nodes is not None
            self._pods[step] = self._nodes.begin(step, attempt)
            return self._pods[step]

    def pod(self, *step: str | int) -> str:
        """Name of the pod of the step's newest attempt; empty before the first."""
        return self._pods.get(step, "")

    def write(self, *step: str | int, text: str) -> None:
        """Add to the step's log."""
        self._logs[self._pods[step]] = self._logs.get(self._pods[step], "") + text

    def end(self, *step: str | int, state: str = "SUCCEEDED") -> None:
        """A step ends."""
        with self._lock:
            assert self._nodes is not None
            if state == "FAILED":
                self._stale = self._nodes.listed(self.run_id)  # what the server first says of a run that failed
                self._failed = True
            self._nodes.end(step, state)

    def terminate(self) -> bool:
        """End the run; False where it has ended."""
        with self._lock:
            if self.ended:
                return False
            self._cancelling = now()
            self.cancelled.set()
            return True

    def task_details(self) -> list[dict[str, Any]]:
        """The nodes; those of a run that has just failed once as they were before, as the real server does."""
        with self._lock:
            if self.ended and self._stale is not None:
                stale, self._stale = self._stale, None
                return stale
            return self._nodes.listed(self.run_id) if self._nodes else []

    def _execute(self, runner: Runner, may_start: threading.Event) -> None:
        may_start.wait()
        with self._lock:
            self._nodes = Nodes(self.workflow)
            self._enter("RUNNING")
        try:
            runner(self)
        except BaseException:
            self._failed = True
            raise
        finally:
            with self._lock:
                state = "FAILED" if self._failed or self.cancelled.is_set() else "SUCCEEDED"
                self._nodes.close(state)
                self.finished = now()
                if self._cancelling:
                    self.state_history.append(("CANCELING", self._cancelling))
                self._enter(state)

    def _enter(self, state: str) -> None:
        self.state_history.append((state, now()))

    def _written(self, pod: str) -> str:
        return self._logs[pod]
