"""u of a large dataset: reading and writing the rows of one global batch, in each of its homes."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch

from drrho_clip.method.rows import UState

SAMPLES, ROWS, REPEATS = 10**8, 16_384, 30


def ustate_time() -> dict[str, Any]:
    """Median time of a get and a put of random rows, in the first epoch (the file still takes memory) and later."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="drrho-u-", dir="/dev/shm") as folder:
        for home in ("device", "shared"):
            state = UState(SAMPLES, home=home, folder=folder)  # type: ignore[arg-type]
            seconds[f"{home}, first epoch"] = _median(state)
            for start in range(0, SAMPLES, SAMPLES // 10):
                state.write_rows(start, torch.zeros(SAMPLES // 10, 2))
            seconds[home] = _median(state)
            del state
    compared = f"get and put of {ROWS:,} random rows of {SAMPLES:,}: the node's shared file over a tensor of the process"
    return {"ratio": seconds["shared"] / seconds["device"], "goal": 3.0, "compared": compared, "seconds": seconds}


def _median(state: UState) -> float:
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(REPEATS):
        index = torch.randint(SAMPLES, (ROWS,), generator=generator)
        started = time.perf_counter()
        state.put(index, state.get(index) + 1)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
