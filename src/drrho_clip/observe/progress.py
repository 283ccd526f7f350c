"""Progress bars for the long parts, on terminals; elsewhere a log line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from drrho_clip.observe.logs import get_logger

T = TypeVar("T")


def progress(
    items: Iterable[T], *, what: str, total: int | None = None, unit: str = "it", done: int = 0, every: float = 15.0
) -> Iterator[T]:
    """Yield from `items`, showing a bar on a terminal or logging `progress` every `every` seconds elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, initial=done, dynamic_ncols=True)
        return
    last = time.monotonic()
    for count, item in enumerate(items, start=done + 1):
        yield item
        if time.monotonic() - last >= every:
            get_logger().info("progress", what=what, done=count, total=total, unit=unit)
            last = time.monotonic()
