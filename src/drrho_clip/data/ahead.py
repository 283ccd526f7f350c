"""Reading ahead: threads fetch what comes next, within a limit in bytes, while the samples before it are decoded and used."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from drrho_clip.data.pieces import GAP_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from drrho_clip.data.features import FeatureReader
    from drrho_clip.data.manifest import Shard
    from drrho_clip.data.pieces import Pieces
    from drrho_clip.data.reader import Sample, SampleReader

T = TypeVar("T")
Indices = NDArray[np.int64]

THREADS = 16
AHEAD_BYTES = 128 * 2**20  # of encoded samples and features, for the steps in use and to come; never less than two steps
GROUP_STEPS = 16  # of a group: where all is held nothing would end it
RUN_BYTES = 16 * 2**20  # of one ranged read; a sample that is larger comes alone
RUN_SAMPLES = 1024
TASK_BYTES = 512 * 2**10  # of the reads of one task: from a disk, to start one for each small read takes longer than to read
RUNS_AHEAD = 8  # of sequential reading


class Submit(Protocol):
    """Starts a task, as the method of an executor does."""

    def __call__(self, task: Callable[[], T], /) -> Future[T]:
        """Return what will hold the result of `task`."""


@dataclass(frozen=True)
class Fetched:
    """What is being fetched: each waits for what it is asked for, and raises what went wrong with just that."""

    sample: Callable[[int], Sample]
    features: Callable[[Indices], Tensor] | None


class ReadAhead:
    """Fetches the samples and features of the next steps in threads; a context manager, used by one thread.

    Steps are taken in groups, so that neighbours among their samples come in one ranged read. Two groups are held, the one in
    use and the next: each of half of `limit` bytes, by the mean size of the samples, or of one step where that is larger, and of
    16 steps at most.
    """

    def __init__(self, reader: SampleReader, features: FeatureReader | None, limit: int = AHEAD_BYTES) -> None:
        self.reader, self.features, self.limit = reader, features, limit
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def steps(self, wanted: Iterable[Indices], held: Callable[[int], bool]) -> Iterator[tuple[Indices, Fetched]]:
        """Yield the samples of each step and what is fetched for it; those that are `held` by then are not fetched again."""
        started: deque[tuple[list[Indices], Fetched]] = deque()
        for group in self._groups(wanted, held):
            started.append((group, self.start(group, held)))
            if len(started) > 1:
                yield from _each(*started.popleft())
        for last in started:
            yield from _each(*last)

    def start(self, group: Sequence[Indices], held: Callable[[int], bool]) -> Fetched:
        """Begin to fetch what these steps need."""
        indices = np.concatenate(group)
        fetch = _start_runs if self.reader.in_runs else _start_samples
        samples = fetch(self.reader, [index for index in indices.tolist() if not held(index)], self._pool.submit)
        return Fetched(samples, self.features.start(indices, self._pool.submit) if self.features else None)

    def _groups(self, wanted: Iterable[Indices], held: Callable[[int], bool]) -> Iterator[list[Indices]]:
        sized = ((step, self._size([index for index in step.tolist() if not held(index)], len(step))) for step in wanted)
        return _gathered(sized, self.limit / 2, most=GROUP_STEPS)

    def _size(self, samples: Sequence[int], rows: int) -> float:
        """Bytes of samples, by the mean of their shards, and of rows of features."""
        shards = (self.reader.place(index)[0] for index in samples)
        return sum(shard.bytes / shard.count for shard in shards) + (4 * self.features.dim * rows if self.features else 0)


def _each(group: Iterable[Indices], fetched: Fetched) -> Iterator[tuple[Indices, Fetched]]:
    return ((step, fetched) for step in group)


def _start_runs(reader: SampleReader, indices: Iterable[int], submit: Submit) -> Callable[[int], Sample]:
    """Fetch into the reader's own cache, which holds the whole dataset in the end: each run of samples by one of them."""
    runs: dict[tuple[str, int], Future[Sample]] = {}
    for index in indices:
        if (run := reader.run(index)) not in runs:
            runs[run] = submit(partial(reader.get, index))

    def sample(index: int) -> Sample:
        runs[reader.run(index)].result()
        return reader.get(index)

    return sample


Positions = dict[int, Future[dict[int, "Pieces"]]]
"""By the position of a sample in its shard, the task that reads it: what it gives holds by position what was read of each."""


def _start_samples(reader: SampleReader, indices: Iterable[int], submit: Submit) -> Callable[[int], Sample]:
    wanted: dict[str, tuple[Shard, set[int]]] = {}
    for index in indices:
        shard, position = reader.place(index)
        wanted.setdefault(shard.key, (shard, set()))[1].add(position)
    shards = {
        key: submit(partial(_start_shard, reader, shard, sorted(positions), submit)) for key, (shard, positions) in wanted.items()
    }

    def sample(index: int) -> Sample:
        shard, position = reader.place(index)
        pieces = shards[shard.key].result()[position].result()
        return reader.cut(shard, position, pieces[position])

    return sample


def _start_shard(reader: SampleReader, shard: Shard, positions: Sequence[int], submit: Submit) -> Positions:
    """Start to read these positions of a shard; itself a task, because it may have to fetch the shard's index."""
    found: Positions = {}
    for runs in _gathered(_near(reader, shard, positions), TASK_BYTES):
        found |= dict.fromkeys(chain.from_iterable(runs), submit(partial(_read_all, reader, shard, runs)))
    return found


def _near(reader: SampleReader, shard: Shard, positions: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Yield the positions that one ranged read fetches together, and its bytes."""
    spans = sorted((*reader.span(shard, position), position) for position in positions)
    first, end = 0, 0
    for last, (_, stop, _) in enumerate(spans, start=1):
        end = max(end, stop)
        if last < len(spans) and spans[last][0] - end <= GAP_BYTES and spans[last][1] - spans[first][0] <= RUN_BYTES:
            continue
        yield [position for _, _, position in spans[first:last]], end - spans[first][0]
        first = last


def _gathered(items: Iterable[tuple[T, float]], limit: float, most: float = math.inf) -> Iterator[list[T]]:
    """Yield items, each of which comes with its bytes, in parts of `limit` bytes and `most` items; a larger one comes alone."""
    part: list[T] = []
    total = 0.0
    for item, size in items:
        if part and (len(part) == most or total + size > limit):
            yield part
            part, total = [], 0.0
        part.append(item)
        total += size
    if part:
        yield part


def _read_all(reader: SampleReader, shard: Shard, runs: Sequence[Sequence[int]]) -> dict[int, Pieces]:
    found: dict[int, Pieces] = {}
    for run in runs:
        found |= dict.fromkeys(run, reader.read(shard, run))
    return found


def in_order(reader: SampleReader, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Sample]]:
    """Yield all samples of `shards`, which may be made while it goes on; at most `RUNS_AHEAD` + 1 runs are in memory."""

    def cut(shard: Shard, positions: range, pieces: Pieces) -> Iterator[tuple[Shard, Sample]]:
        return ((shard, reader.cut(shard, position, pieces)) for position in positions)

    pool = ThreadPoolExecutor(RUNS_AHEAD, thread_name_prefix="ahead")
    pending: deque[tuple[tuple[Shard, range], Future[Pieces]]] = deque()
    try:
        for run in (run for shard in shards for run in _runs(shard)):
            pending.append((run, pool.submit(reader.read, *run)))
            if len(pending) > RUNS_AHEAD:
                oldest, data = pending.popleft()
                yield from cut(*oldest, data.result())
        while pending:
            oldest, data = pending.popleft()
            yield from cut(*oldest, data.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _runs(shard: Shard) -> Iterator[tuple[Shard, range]]:
    size = run_samples(shard)
    return ((shard, range(first, min(first + size, shard.count))) for first in range(0, shard.count, size))


def run_samples(shard: Shard) -> int:
    """How many consecutive samples one ranged read fetches: 1,024, or fewer where they are large."""
    return max(1, min(RUN_SAMPLES, RUN_BYTES * shard.count // max(1, shard.bytes)))


def at_once(task: Callable[[], Any], /) -> Future[Any]:
    """Do a task now: a `Submit` without threads."""
    done: Future[Any] = Future()
    done.set_result(task())
    return done
