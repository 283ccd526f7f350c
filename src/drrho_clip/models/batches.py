"""Encoding many pictures and texts: the pictures of the next batch are prepared in threads while this one is encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from drrho_clip.models.encoder import Encoder

T = TypeVar("T")
P = TypeVar("P")


def encode_pairs(
    encoder: Encoder, items: Iterable[T], load: Callable[[T], tuple[Image, str]], *, batch_size: int, threads: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the features of `items` in order, in batches: float32 [b, 2, dim] (image, text), unit norm, on the CPU.

    `load` gives the RGB picture and the caption of an item and is called in `threads` threads (0 = one per core).
    """
    import torch

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for pairs in _prepared(pool, items, _preparer(encoder, load), batch_size):
            images = encoder.encode_image(torch.stack([image for image, _ in pairs]))
            texts = encoder.encode_text(encoder.tokenize([caption for _, caption in pairs]))
            yield torch.stack([images, texts], dim=1).cpu()


def encode_images(
    encoders: Sequence[Encoder], items: Iterable[T], load: Callable[[T], Image], *, batch_size: int, threads: int = 0
) -> Iterator[list[torch.Tensor]]:
    """Yield the features of pictures in order, in batches: for each encoder float32 [b, dim], unit norm, on the CPU.

    All encoders have one preprocessing, so that each picture is decoded once for all of them. `load` and `threads` as above.
    """
    import torch

    preprocess = encoders[0].preprocess
    assert all(encoder.identity.preprocessing == encoders[0].identity.preprocessing for encoder in encoders)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for pictures in _prepared(pool, items, lambda item: preprocess(load(item)), batch_size):
            batch = torch.stack(pictures)
            yield [encoder.encode_image(batch).cpu() for encoder in encoders]


def encode_texts(encoder: Encoder, texts: Sequence[str], *, batch_size: int = 256) -> torch.Tensor:
    """Return the features of at least one text: float32 [n, dim], unit norm, on the CPU."""
    import torch

    batches = (list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size))
    return torch.cat([encoder.encode_text(encoder.tokenize(batch)).cpu() for batch in batches])


def _preparer(encoder: Encoder, load: Callable[[T], tuple[Image, str]]) -> Callable[[T], tuple[torch.Tensor, str]]:
    def prepare(item: T) -> tuple[torch.Tensor, str]:
        image, caption = load(item)
        return encoder.preprocess(image), caption

    return prepare


def _prepared(pool: ThreadPoolExecutor, items: Iterable[T], prepare: Callable[[T], P], batch_size: int) -> Iterator[list[P]]:
    """Yield batches of prepared items, one batch ahead of the consumer."""
    stream = iter(items)
    current = [pool.submit(prepare, item) for item in islice(stream, batch_size)]
    while current:
        following = [pool.submit(prepare, item) for item in islice(stream, batch_size)]
        yield [future.result() for future in current]
        current = following
