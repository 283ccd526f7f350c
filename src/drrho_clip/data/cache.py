"""A cache bounded by the size of what it holds: the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SizedCache(Generic[T]):
    """Holds at most `limit` bytes, but always what was asked for last. Safe between threads; pickled without contents."""

    def __init__(self, limit: int, size_of: Callable[[T], int]) -> None:
        self.limit, self.size_of = limit, size_of
        self.size = 0
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        """Return the value of `key`, loaded if it is not held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = load()
        with self._lock:
            if key not in self._held:
                self._held[key] = value
                self.size += self.size_of(value)
            while self.size > self.limit and len(self._held) > 1:
                self.size -= self.size_of(self._held.popitem(last=False)[1])
        return value

    def __reduce__(self) -> tuple[type[SizedCache[T]], tuple[int, Callable[[T], int]]]:
        return SizedCache, (self.limit, self.size_of)
