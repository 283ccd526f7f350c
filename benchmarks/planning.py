"""The order of samples: planning an epoch of a large dataset, against the permutation of all its samples."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np

from drrho_clip.data.manifest import Shard
from drrho_clip.data.order import SampleOrder

SHARDS, SHARD_SAMPLES, BATCH = 20_000, 10_000, 5120


def planning() -> dict[str, Any]:
    """Plan an epoch of 2 * 10^8 samples and take its first batch."""
    shards = [
        Shard(key=f"{i}.tar", etag="", sha256="", bytes=1, count=SHARD_SAMPLES, base=i * SHARD_SAMPLES, split="train")
        for i in range(SHARDS)
    ]
    order, planned = _timed(lambda: _first_batch(shards))
    _, permuted = _timed(lambda: np.random.default_rng(0).permutation(SHARDS * SHARD_SAMPLES)[:BATCH].copy())
    tracemalloc.start()
    _first_batch(shards)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(order)) == BATCH
    return {
        "ratio": planned / permuted,
        "goal": 0.1,
        "compared": "an epoch of 2e8 samples planned up to its first batch, over numpy's permutation of all samples",
        "seconds": {"planned": planned, "permuted": permuted},
        "megabytes": {"planned": peak / 1e6, "permuted": SHARDS * SHARD_SAMPLES * 8 / 1e6},
    }


def _first_batch(shards: list[Shard]) -> np.ndarray[Any, Any]:
    return SampleOrder(shards, seed=0, batch_size=BATCH).batch(0)


def _timed(work: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started
