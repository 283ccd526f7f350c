"""Raw samples to prepared ones, in worker processes, in their order and with a bounded look-ahead."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import BadImage, PreparedImage, prepare_image
from drrho_clip.data.noise import draw_split, is_exchanged
from drrho_clip.data.sources.base import LEFT_OUT, Fetch, Place, RawSample, Rejected
from drrho_clip.errors import DataError

BATCH = 16  # rows sent to a worker at once
LOOK_AHEAD = 3  # batches in flight per worker
LONGEST_FOLDER = 64  # characters of the temporary folder's name, to which multiprocessing adds 32


@dataclass(frozen=True)
class Prepared:
    """One sample ready to be written."""

    key: str
    image: PreparedImage
    caption: str
    class_name: str | None
    split: str
    extra: dict[str, Any]
    fetch: Fetch | None = None
    place: Place | None = None
    duplicate: str = ""  # of an earlier sample, by "content" or by "look"


@dataclass(frozen=True)
class ImageLimits:
    """What `prepare_image` is told."""

    image_size: int
    min_side: int
    max_pixels: int
    max_aspect: float
    with_looks: bool = False

    @classmethod
    def of(cls, config: IngestConfig) -> ImageLimits:
        """Take the limits out of the settings of the step."""
        return cls(config.image_size, config.min_image_side, config.max_image_pixels, config.max_aspect_ratio)


Row = tuple[RawSample, str] | Rejected  # a raw sample and its split


def with_split(row: RawSample | Rejected, config: IngestConfig) -> Row:
    """Return the row with its split; the clean part leaves its share out here, before any decoding."""
    if isinstance(row, Rejected):
        return row
    split = row.split or draw_split(row.key, config.seed, config.heldout_fraction, config.validation_fraction)
    if config.caption_noise_part == "clean" and is_exchanged(row.key, split, config.seed, config.caption_noise):
        return Rejected(row.key, LEFT_OUT, "", row.fetch)
    return row, split


def prepare_all(
    rows: Iterable[Row], config: IngestConfig, *, with_looks: bool = False
) -> Generator[Prepared | Rejected, None, None]:
    """Yield one result per row, in the order of the rows whatever the number of workers; `with_looks` to find duplicates."""
    limits = replace(ImageLimits.of(config), with_looks=with_looks)
    workers = config.workers or _cores()
    if workers == 1:
        for row in rows:
            yield _prepare(row, limits)
        return
    iterator = iter(rows)
    batches = iter(lambda: list(itertools.islice(iterator, BATCH)), [])
    pool = _pool(workers, shrinking=config.image_size > 0)
    pending: deque[Future[list[Prepared | Rejected]]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(_prepare_batch, batch, limits))
            if len(pending) >= LOOK_AHEAD * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            f"One of {workers} workers that decode images ended without a word, probably for want of memory",
            fix="Set workers to a smaller number (1 = no extra process), or max_image_pixels to less. A script of your own that"
            " calls this needs `if __name__ == '__main__':` around its work, since workers import it.",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int, *, shrinking: bool) -> ProcessPoolExecutor:
    """Return processes that are forks of one that holds no more than the modules.

    A fork of this process would copy the threads and connections of storage clients in an unknown state; processes that start
    from nothing would each hold 300 MB of torch, which shrinks the pictures. They do so where the temporary folder's name leaves
    no room for that of a socket (at most 104 to 108 bytes, unix(7)).
    """
    context = multiprocessing.get_context("forkserver" if len(tempfile.gettempdir()) <= LONGEST_FOLDER else "spawn")
    context.set_forkserver_preload([__name__, "drrho_clip.data.resize"] if shrinking else [__name__])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(shrinking,))


def _begin(shrinking: bool) -> None:
    """Prepare a worker: it ends with its parent, also where that is killed, and needs no other thread."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if shrinking:
        import torch

        torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _prepare_batch(rows: list[Row], limits: ImageLimits) -> list[Prepared | Rejected]:
    return [_prepare(row, limits) for row in rows]


def _prepare(row: Row, limits: ImageLimits) -> Prepared | Rejected:
    if isinstance(row, Rejected):
        return row
    raw, split = row
    try:
        image = prepare_image(
            raw.load(),
            image_size=limits.image_size,
            min_side=limits.min_side,
            max_pixels=limits.max_pixels,
            max_aspect=limits.max_aspect,
            with_looks=limits.with_looks,
        )
    except BadImage as error:
        return Rejected(raw.key, error.reason, error.detail, raw.fetch)
    except OSError as error:
        return Rejected(raw.key, "unreadable", error.strerror or str(error), raw.fetch)
    class_name = None if raw.class_name is None else printable(raw.class_name)
    return Prepared(raw.key, image, raw.caption, class_name, split, raw.extra, raw.fetch, raw.place)


def printable(text: str) -> str:
    """Return text that can be written as UTF-8: half characters (lone surrogates, which JSON can hold) become \\udXXX."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
