"""How near a container is to its memory limit: said in the log as it rises, since nobody can ask once it was killed for it."""

from __future__ import annotations

import os
import threading
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from drrho_clip.observe.logs import get_logger

MEMORY = "memory_used"
"""The event; `used` and `limit` are in bytes."""
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
WARNED = 0.9
SECONDS = 1.0
UNLIMITED = 2**60  # control groups of version 1 say no limit with a number of this size


@dataclass(frozen=True)
class ControlGroup:
    """The files of one version, below /sys/fs/cgroup."""

    limit: str
    used: str
    statistics: str
    reclaimable: str  # file pages that the kernel gives back before it kills


VERSIONS = (
    ControlGroup("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ControlGroup("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def memory(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """Bytes used, without what can be reclaimed, and the limit of this process's container; None where there is no limit."""
    for version in VERSIONS:
        try:
            limit = (root / version.limit).read_text().strip()
            used = int((root / version.used).read_text())
            statistics = dict(line.split() for line in (root / version.statistics).read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= UNLIMITED:
            return None
        return used - int(statistics.get(version.reclaimable, 0)), int(limit)
    return None


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process's container may use, or all that the machine has."""
    found = memory(root)
    return found[1] if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Logs, while the context is open, each time the memory used passes a further share of the limit."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), seconds: float = SECONDS) -> None:
        self.root, self.seconds = root, seconds
        self._passed = 0.0
        self._closed = threading.Event()
        in_context = copy_context().run  # what every line of this process says: run and rank
        self._thread = threading.Thread(target=in_context, args=(self._run,), name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()

    def look(self) -> bool:
        """Look once, and log what is new; False where there is no limit to look at."""
        found = memory(self.root)
        if found is None:
            return False
        used, limit = found
        passed = max((share for share in SHARES if used >= share * limit), default=0.0)
        if passed > self._passed:
            self._passed = passed
            say = get_logger().warning if passed >= WARNED else get_logger().info
            say(MEMORY, used=used, limit=limit)
        return True

    def _run(self) -> None:
        while not self._closed.wait(self.seconds) and self.look():
            pass
