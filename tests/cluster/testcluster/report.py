"""What the harness says while it works: one line for each thing that takes time."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Keep others out who build into the same cache, and wait for one who does so already."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another build in {path.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
