"""What the harness says while it works: one line for each thing that takes time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True)
class Progress:
    """Prints lines with the seconds since it was made."""

    stream: TextIO = field(default_factory=lambda: sys.__stderr__ or sys.stderr)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"[cluster {time.monotonic() - self.started:5.0f} s] {text}", file=self.stream, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say that `name` begins, and when it is done how long it took."""
        begun = time.monotonic()
        self.say(f"{name} ...")
        yield
        self.say(f"{name}: {time.monotonic() - begun:.0f} s")
