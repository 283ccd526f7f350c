"""Progress bars for the long parts, on terminals; elsewhere a log line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from drrho_clip.observe.logs import get_logger

T = TypeVar("T")

SECONDS = "DRRHO_PROGRESS_SECONDS"
"""Environment variable: how often progress is logged where there is no terminal. Whoever draws bars from the log sets it."""


def progress(
    items: Iterable[T], *, what: str, total: int | None = None, unit: str = "it", done: int = 0, every: float | None = None
) -> Iterator[T]:
    """Yield from `items`, showing a bar on a terminal or logging `progress` every `every` (15) seconds elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, initial=done, dynamic_ncols=True)
        return
    every = float(os.environ.get(SECONDS, "15")) if every is None else every
    last, logged, count = time.monotonic(), done, done
    for count, item in enumerate(items, start=done + 1):
        yield item
        if time.monotonic() - last >= every:
            get_logger().info("progress", what=what, done=count, total=total, unit=unit)
            last, logged = time.monotonic(), count
    if done < logged < count:  # who has seen it go sees it end
        get_logger().info("progress", what=what, done=count, total=total, unit=unit)
