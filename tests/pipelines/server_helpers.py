"""What tests of the commands around a server share: runs that end in every way, and the commands."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from drrho_clip.cli import run_app
from drrho_pipelines.cli import make_full_app
from kfp_stand_in import Execution, StandIn

STORE = ["-p", "store=s3://bucket/prefix"]


OUR_REASON = '{"event": "step_failed", "error": "There is no dataset \'pets\'.", "kind": "DataError", "level": "error"}\n'


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nValueError: 3 is too many\n\nI1125 launcher ends\n'


def succeeds(execution: Execution) -> None:
    for step in ("ingest", "train"):
        execution.begin(step)
        execution.write(step, text=f"the log of {step}\n")
        execution.end(step)


def fails(text: str) -> Callable[[Execution], None]:
    def run(execution: Execution) -> None:
        succeeds(execution)
        execution.begin("evaluate")
        execution.write("evaluate", text=text)
        execution.end("evaluate", state="FAILED")

    return run


def runs_on(execution: Execution) -> None:
    execution.begin("train")
    execution.cancelled.wait(60)


def runs_until(finish: threading.Event) -> Callable[[Execution], None]:
    def run(execution: Execution) -> None:
        execution.begin("train")
        finish.wait(60)
        execution.end("train")

    return run


def after_looks(server: StandIn, count: int, do: Callable[[], object]) -> None:
    """Do something, in a thread, once a client has looked at a run so many times."""

    def wait() -> None:
        while sum(method == "GET" and "/runs/" in path for method, path in list(server.requests)) < count:
            time.sleep(0.02)
        do()

    threading.Thread(target=wait, daemon=True).start()


def drrho(server: StandIn | str, *arguments: str) -> int:
    """Run a command of the group `pipeline` in this process, and return its exit code."""
    url = server if isinstance(server, str) else server.url
    return run_app(make_full_app(), ["pipeline", *arguments, "--host", url])


def submit(server: StandIn | str, *arguments: str) -> int:
    return drrho(server, "submit", "steering", *STORE, "--every", "0.1", *arguments)


def results(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
