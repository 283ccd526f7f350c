"""The order of samples in training: virtual lanes, a pure function of (seed, epoch, step) and never of the world size.

Every shard is cut into chunks of consecutive samples. Each epoch permutes the chunks, cuts the resulting sequence into V lanes of
equal length, and permutes each lane within windows of a few chunks. Every global batch takes B / V samples from each lane, and
rank r of W owns the lanes v with v % W == r. So a run may go on with another number of processes and still see the same global
batches, and reading stays local to a few chunks at a time. The permutations sort by a hash (splitmix64: Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014), because the streams of numpy's generators may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drrho_clip.data.manifest import Shard
from drrho_clip.errors import ConfigError

MAX_LANES = 64
MAX_CHUNK = 1024  # samples: what one ranged read fetches at most
WINDOW_CHUNKS = 16
PARTS = 2**16  # a fraction of the data is made of this many parts, or of more where a chunk would be too large
_OF_CHUNKS, _OF_WINDOWS, _OF_PARTS = 1, 2, 3  # keep the families of permutations apart

Indices = NDArray[np.int64]


class SampleOrder:
    """Which samples step t takes. Memory grows with the number of chunks and the windows in use, not with the number of samples.

    Every sample comes at most once per epoch; those that do not fill a batch, batch_size - 1 at most, differ from epoch to epoch.
    """

    def __init__(self, shards: Sequence[Shard], *, seed: int, batch_size: int, lanes: int = 0, fraction: float = 1.0) -> None:
        """Plan over the shards of one split, or a `fraction` of it: the same for every seed, smaller ones within larger ones.

        `lanes` = 0 takes the largest divisor of `batch_size` up to 64.
        """
        bases = np.array([shard.base for shard in shards], dtype=np.int64)
        counts = np.array([shard.count for shard in shards], dtype=np.int64)
        if fraction < 1:
            bases, counts = _subset(bases, counts, fraction)
        self.samples = int(counts.sum())
        self.batch_size, self.seed = batch_size, seed
        self.lanes = lanes or _default_lanes(batch_size)
        if batch_size % self.lanes:
            raise ConfigError(
                f"{self.lanes} lanes do not divide the global batch of {batch_size}",
                fix=f"Set lanes to a divisor of batch_size, or to 0 for {_default_lanes(batch_size)}.",
            )
        self.steps_per_epoch = self.samples // batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"0 steps an epoch from {self.samples} samples, global batch {batch_size}",
                fix=f"Set batch_size to at most {self.samples}, or ingest more data.",
            )
        self._per_lane = batch_size // self.lanes
        self._lane_length = self.steps_per_epoch * self._per_lane
        chunk = min(MAX_CHUNK, max(1, self.samples // (4 * self.lanes)))
        self._window = WINDOW_CHUNKS * chunk
        self._starts, self._lengths = _chunks(bases, counts, chunk)
        self._epoch = -1
        self._windows: dict[int, tuple[int, Indices]] = {}

    def epoch_of(self, step: int) -> int:
        """Return the epoch of a step; both count from 0."""
        return step // self.steps_per_epoch

    @property
    def open_chunks(self) -> tuple[int, int]:
        """How many runs of consecutive samples one step draws from at most, and how many samples each of them has on average."""
        mean = self.samples / len(self._starts)  # a chunk's, or less where a fraction is made of smaller parts
        return min(len(self._starts), math.ceil(self.lanes * self._window / mean)), math.ceil(mean)

    def check(self, world_size: int) -> None:
        """Raise ConfigError unless the lanes can be shared out among `world_size` processes."""
        if self.lanes % world_size:
            raise ConfigError(
                f"{world_size} processes cannot share {self.lanes} lanes (global batch {self.batch_size})",
                fix=f"Set batch_size and lanes to multiples of {world_size}, or start as many processes as divide {self.lanes}.",
            )

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Indices:
        """Return one rank's sample indices [batch_size / world_size] int64, lane after lane; `step` counts over all epochs."""
        self.check(world_size)
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        self._seek(epoch)
        first = step_in_epoch * self._per_lane
        lanes = range(rank, self.lanes, world_size)
        return np.concatenate([self._positions(lane, first, first + self._per_lane) for lane in lanes])

    def _seek(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        permutation = np.argsort(_hash(len(self._starts), self.seed, epoch, _OF_CHUNKS), kind="stable")
        self._chunk_ends = np.cumsum(self._lengths[permutation])
        self._chunk_shifts = self._starts[permutation] - (self._chunk_ends - self._lengths[permutation])
        self._windows.clear()
        self._epoch = epoch

    def _positions(self, lane: int, first: int, end: int) -> Indices:
        """Return the sample indices at the positions first .. end - 1 of a lane, after the permutation within windows."""
        parts = []
        for window in range(first // self._window, (end - 1) // self._window + 1):
            start = window * self._window
            parts.append(self._window_of(lane, window)[max(0, first - start) : end - start])
        return np.concatenate(parts)

    def _window_of(self, lane: int, window: int) -> Indices:
        cached = self._windows.get(lane)
        if cached is not None and cached[0] == window:
            return cached[1]
        start = window * self._window
        count = min(self._window, self._lane_length - start)
        permutation = np.argsort(_hash(count, self.seed, self._epoch, _OF_WINDOWS, lane, window), kind="stable")
        indices = self._indices(lane * self._lane_length + start + permutation)
        self._windows[lane] = (window, indices)
        return indices

    def _indices(self, positions: Indices) -> Indices:
        """Map positions in the epoch's sequence of chunks to sample indices."""
        chunk = np.searchsorted(self._chunk_ends, positions, side="right")
        return positions + self._chunk_shifts[chunk]


def draw(shards: Sequence[Shard], size: int, seed: int) -> Indices:
    """Return the sorted indices of `size` samples, or of all where there are fewer, drawn from the shards without replacement."""
    ends = np.cumsum([shard.count for shard in shards])
    total = int(ends[-1])
    positions = np.sort(np.random.default_rng(seed).choice(total, size=min(size, total), replace=False, shuffle=False))
    number = np.searchsorted(ends, positions, side="right")
    bases = np.array([shard.base + shard.count for shard in shards], dtype=np.int64)
    chosen: Indices = positions + (bases - ends)[number]
    return chosen


def _default_lanes(batch_size: int) -> int:
    return max(lanes for lanes in range(1, MAX_LANES + 1) if batch_size % lanes == 0)


def _chunks(bases: Indices, counts: Indices, size: int) -> tuple[Indices, Indices]:
    """Return the first index and the length of every chunk: runs of `size` samples, the last run of a shard may be shorter."""
    runs = -(-counts // size)
    shard_of = np.repeat(np.arange(len(bases)), runs)
    number = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
    starts = bases[shard_of] + number * size
    return starts, np.minimum(size, (bases + counts)[shard_of] - starts)


def _subset(bases: Indices, counts: Indices, fraction: float) -> tuple[Indices, Indices]:
    """Return the first index and the length of the runs that make up a fraction of the samples, to the sample."""
    total = int(counts.sum())
    starts, lengths = _chunks(bases, counts, min(MAX_CHUNK, max(1, total // PARTS)))
    order = np.argsort(_hash(len(starts), _OF_PARTS), kind="stable")
    before = np.cumsum(lengths[order]) - lengths[order]
    taken = np.minimum(lengths[order], round(total * fraction) - before)
    kept, taken = order[taken > 0], taken[taken > 0]
    by_place = np.argsort(kept)
    return starts[kept[by_place]], taken[by_place]


def _hash(count: int, *key: int) -> NDArray[np.uint64]:
    """Return splitmix64 hashes [count] of (key, 0), (key, 1), ..."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _splitmix64(state ^ np.uint64(part % 2**64))
    return _splitmix64(state ^ np.arange(count, dtype=np.uint64))


def _splitmix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
