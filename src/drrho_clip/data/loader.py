"""Batches for training: the deterministic order, read, decoded, augmented, tokenised and joined with the reference features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from drrho_clip.data.ahead import Fetched, ReadAhead
from drrho_clip.data.augment import ImageBatcher
from drrho_clip.data.features import FeatureReader
from drrho_clip.data.images import BadImage, decode_image
from drrho_clip.data.order import SampleOrder
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.errors import DrrhoError
from drrho_clip.observe import get_logger

KEPT_BYTES = 128 * 2**20  # decoded samples that each data worker keeps for later epochs
CACHE_SHARE, LEAST_CACHE = 1 / 8, 256 * 2**20  # of a node's memory, and in bytes of each data worker: see `sample_cache`


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch."""

    images: Tensor  # [b, 3, h, w] uint8, or float32 in 0..1: see ImageBatcher; `models.normalise` takes either
    tokens: Tensor  # [b, context] int64
    index: Tensor  # [b] int64, the samples' stable indices
    valid: Tensor  # [b] bool, false where the image could not be decoded
    reference: Tensor | None  # [b, 2, dim] float16 (image, text), unit norm

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the data loader where there is a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        changed: dict[str, Any] = {name: None if part is None else change(part) for name, part in parts.items()}
        return Batch(**changed)


Loaded = tuple[Image.Image | None, Tensor]
"""A decoded picture, None where it could not be, and the tokens [context] int64 of its caption."""


class Kept:
    """Loaded samples of earlier epochs: the first that come, up to `limit` bytes. Pickled without contents.

    Epochs go through all samples in turn, where keeping the last used of more than fit would never find one again.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._held: dict[int, Loaded] = {}

    def get(self, index: int, load: Callable[[int], Loaded]) -> Loaded:
        """Return a sample, loaded if it is not held."""
        found = self._held.get(index)
        if found is None:
            image, tokens = found = load(index)
            size = tokens.numel() * tokens.element_size() + (3 * image.width * image.height if image else 0)
            if self.size + size <= self.limit:
                self._held[index] = found
                self.size += size
        return found

    def holds(self, index: int) -> bool:
        """Whether a sample need not be loaded any more."""
        return index in self._held

    def __reduce__(self) -> tuple[type[Kept], tuple[int]]:
        return Kept, (self.limit,)


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batch of any step: a pure function of the step, so it can be asked from any process."""

    reader: SampleReader
    order: SampleOrder
    features: FeatureReader | None
    images: ImageBatcher
    tokenize: Callable[[list[str]], Tensor]
    rank: int = 0
    world_size: int = 1
    kept: Kept = field(default_factory=lambda: Kept(KEPT_BYTES))

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, counted from 0 over all epochs."""
        return self.read(self.order.batch(step, self.rank, self.world_size), step)

    def read(self, index: NDArray[np.int64], step: int, fetched: Fetched | None = None) -> Batch:
        """The batch of these samples, as they are augmented at `step`; fetched in parallel where that is not under way."""
        if fetched is None:
            with ReadAhead(self.reader, self.features) as ahead:
                return self.read(index, step, ahead.start([index], self.kept.holds))
        load = partial(self._load, fetched.sample)
        images, tokens = zip(*(self.kept.get(int(i), load) for i in index), strict=True)
        return Batch(
            self.images(images, step, index.tolist()),
            torch.stack(tokens),
            torch.from_numpy(index),
            torch.tensor([image is not None for image in images]),
            fetched.features(index) if fetched.features is not None else None,
        )

    def batches(self, steps: range) -> Iterator[Batch]:
        """The batches of these steps, what the next ones need being fetched meanwhile."""
        wanted = (self.order.batch(step, self.rank, self.world_size) for step in steps)
        with ReadAhead(self.reader, self.features) as ahead:
            for step, (index, fetched) in zip(steps, ahead.steps(wanted, self.kept.holds), strict=True):
                yield self.read(index, step, fetched)

    def _load(self, read: Callable[[int], Sample], index: int) -> Loaded:
        sample = read(index)
        return self._decode(sample.image, index), self.tokenize([sample.caption])[0]

    def _decode(self, data: bytes, index: int) -> Image.Image | None:
        try:
            return decode_image(data, self.images.size)
        except BadImage as error:
            get_logger().warning("sample_skipped", index=index, reason=str(error))
            return None


def sample_cache(workers: int, processes: int, memory: int) -> int:
    """Bytes of encoded samples that each data worker of a node may hold, of a dataset that fits: an eighth of the memory in all.

    A dataset of small pictures is then fetched in long runs. One by one its samples cost far more than their bytes: a request
    takes milliseconds, of an object store's processor as of ours.
    """
    return max(LEAST_CACHE, int(memory * CACHE_SHARE) // (processes * max(1, workers)))


class _Steps(IterableDataset[Batch | DrrhoError]):
    """Steps first..last-1, dealt out to the data workers in turn; the loader takes them in turn too, so the order is kept."""

    def __init__(self, make: BatchMaker, first: int, last: int) -> None:
        self.make, self.first, self.last = make, first, last

    def __iter__(self) -> Iterator[Batch | DrrhoError]:
        info = get_worker_info()
        start, stride = (info.id, info.num_workers) if info else (0, 1)
        try:
            yield from self.make.batches(range(self.first + start, self.last, stride))
        except DrrhoError as error:  # raised again by `batches`: a worker's exception would arrive wrapped in a traceback
            yield error


def batches(make: BatchMaker, first: int, last: int, *, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps first..last-1 in order, read by `workers` processes (0 = this one)."""
    loader = DataLoader(_Steps(make, first, last), batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
    for batch in loader:
        if isinstance(batch, DrrhoError):
            raise batch
        yield batch
