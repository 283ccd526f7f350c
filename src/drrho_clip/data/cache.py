"""A cache bounded by the size of what it holds: the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class SizedCache(Generic[T]):
    """Holds at most `limit` bytes, but always what was asked for last. Safe between threads; pickled without contents."""

    def __init__(self, limit: int, size_of: Callable[[T], int]) -> None:
        self.limit, self.size_of = limit, size_of
        self.size = 0
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._loading: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        """Return the value of `key`, loaded if it is not held; others that ask for it meanwhile wait, and get what came of it."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            coming = self._loading.get(key)
            if coming is None:
                self._loading[key] = mine = Future[T]()
        return self._load(key, load, mine) if coming is None else coming.result()

    def _load(self, key: Hashable, load: Callable[[], T], mine: Future[T]) -> T:
        try:
            value = load()
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._loading[key]
            self._held[key] = value
            self.size += self.size_of(value)
            while self.size > self.limit and len(self._held) > 1:
                self.size -= self.size_of(self._held.popitem(last=False)[1])
        mine.set_result(value)
        return value

    def __reduce__(self) -> tuple[type[SizedCache[T]], tuple[int, Callable[[T], int]]]:
        return SizedCache, (self.limit, self.size_of)
