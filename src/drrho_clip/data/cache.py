"""A cache of byte runs, bounded by their size: the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class ByteCache:
    """Holds at most `limit` bytes, but always the run that was asked for last. Safe between threads; pickled without contents."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._runs: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], bytes]) -> bytes:
        """Return the run of `key`, loaded if it is not held."""
        with self._lock:
            if key in self._runs:
                self._runs.move_to_end(key)
                return self._runs[key]
        data = load()
        with self._lock:
            if key not in self._runs:
                self._runs[key] = data
                self.size += len(data)
            while self.size > self.limit and len(self._runs) > 1:
                self.size -= len(self._runs.popitem(last=False)[1])
        return data

    def __reduce__(self) -> tuple[type[ByteCache], tuple[int]]:
        return ByteCache, (self.limit,)
