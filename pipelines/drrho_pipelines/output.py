"""What a locally run pipeline says, line by line: the steps' own log lines are shown, the runner's noise is kept aside."""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from typing import Any, TextIO

from tqdm import tqdm

from drrho_components.steps import FAILED

TAIL_LINES = 4
TASK = re.compile(r"Executing task .*'([\w-]+)'")
"""What the runner says when it starts a step."""


class Output:
    """Takes the lines of a run: on a terminal it shows bars and short lines, elsewhere it passes our JSON lines through."""

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False, quiet: bool = False) -> None:
        """`verbose` shows the runner's noise, too; `quiet` leaves bars, warnings and errors."""
        self._stream = stream or sys.stderr
        self._verbose, self._quiet = verbose, quiet
        self._bar: tqdm[Any] | None = None
        self._shown = ""
        self.task = ""
        self._last: dict[str, dict[str, Any]] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def on_terminal(self) -> bool:
        """Whether a person looks at it."""
        return self._stream.isatty()

    @property
    def tail(self) -> list[str]:
        """The last lines that were no log lines of ours: a traceback, where something broke."""
        return list(self._tail)

    def last(self, event: str) -> dict[str, Any] | None:
        """The last log line of this event."""
        return self._last.get(event)

    def line(self, text: str) -> None:
        """Take one line of output."""
        if started := TASK.search(text):
            self.task = started[1]
        record = _record(text)
        if record is None:
            if not _noise(text):
                self._tail.append(text.strip())
            if self._verbose:
                self._write(text.rstrip())
            return
        self._last[record["event"]] = record
        if self.on_terminal and record["event"] == "progress":
            self._progress(record)
        elif self._quiet and record.get("level") in ("debug", "info"):
            return
        elif not self.on_terminal:
            self._write(text.strip())
        elif record["event"] not in ("settings", FAILED):  # the caller says why it failed
            self._write(_short(record))

    def close(self) -> None:
        """End the bar that is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _progress(self, record: dict[str, Any]) -> None:
        what = str(record.get("what", ""))
        if self._bar is None or self._shown != what:
            self.close()
            self._shown = what
            self._bar = tqdm(
                desc=what, total=record.get("total"), unit=str(record.get("unit", "it")), file=self._stream, dynamic_ncols=True
            )
        self._bar.update(int(record.get("done", 0)) - self._bar.n)

    def _write(self, text: str) -> None:
        if self._bar is not None and self.on_terminal:
            self._bar.clear()
        print(text, file=self._stream, flush=True)


def _noise(text: str) -> bool:
    """Empty lines, rules and markers, and the coloured lines of the runner."""
    return "\033[" in text or not text.strip(" -^~\n")


def _record(text: str) -> dict[str, Any] | None:
    """The log line in `text`, or None where it is none of ours."""
    text = text.strip()
    if not text.startswith("{"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("event"), str) else None


def _short(record: dict[str, Any]) -> str:
    hidden = {"event", "level", "timestamp", "component", "run", "rank"}
    facts = " ".join(f"{key}={value}" for key, value in record.items() if key not in hidden)
    return f"  {record.get('component', record.get('run', ''))!s:<10} {record['event'].replace('_', ' ')} {facts}"
