"""From decoded images to a batch tensor, with augmentation that depends on (seed, step, sample) alone."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from drrho_clip.data.resize import resized

Augmentation = Literal["none", "shift", "crop"]


def channel_bytes(augmentation: Augmentation) -> int:
    """Bytes that a channel of a pixel takes in a batch: noise is not rounded."""
    return 4 if augmentation == "shift" else 1


@dataclass(frozen=True)
class ImageBatcher:
    """Turns RGB images into one batch [n, 3, size, size]: bytes (uint8), or float32 in about 0..1 where noise was added.

    none: shorter side to `size`, centre crop. shift: the same, then moved by up to an eighth of the side (edges repeated) with a
    little noise; suits small drawings, whose outline a crop would cut. crop: a random part of 90 to 100% of the area, as
    open_clip trains. `mean`, per channel in 0..1, stands for images that could not be read.
    """

    size: int
    mean: tuple[float, float, float]
    augmentation: Augmentation = "none"
    seed: int = 0

    def __call__(self, images: Sequence[Image.Image | None], step: int, index: Sequence[int]) -> Tensor:
        """Images that are None (could not be read) become `mean`. step: optimiser step; index: the samples' stable indices."""
        found = [(image, _seed(self.seed, step, int(sample))) for image, sample in zip(images, index, strict=True) if image]
        if len(found) == len(images):
            return self._augmented(found)
        out = (torch.tensor(self.mean).view(3, 1, 1) * 255).round().byte().repeat(len(images), 1, self.size, self.size)
        if not found:
            return out
        pixels = self._augmented(found)
        out = out if pixels.dtype == torch.uint8 else out / 255
        out[torch.tensor([image is not None for image in images])] = pixels
        return out

    def _augmented(self, found: Sequence[tuple[Image.Image, int]]) -> Tensor:
        if self.augmentation == "crop":
            return torch.stack([_random_crop(image, self.size, seed) for image, seed in found])
        pixels = torch.stack([_fit(image, self.size) for image, _ in found])
        return pixels if self.augmentation == "none" else _shifted(pixels, [seed for _, seed in found])


def _seed(seed: int, step: int, index: int) -> int:
    digest = hashlib.blake2b(struct.pack("<qqq", seed, step, index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _fit(image: Image.Image, size: int) -> Tensor:
    """The square in the centre, scaled to `size`: uint8 [3, size, size]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resized(image, (size, size), (left, top, left + side, top + side)).contiguous()


def _random_crop(image: Image.Image, size: int, seed: int) -> Tensor:
    """A random part of 90 to 100% of the area, aspect ratio 3/4 to 4/3, scaled to a square: uint8 [3, size, size]."""
    area, ratio, x, y = torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()
    aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
    pixels = image.width * image.height * (0.9 + 0.1 * area)
    width = min(round(math.sqrt(pixels * aspect)), image.width)
    height = min(round(math.sqrt(pixels / aspect)), image.height)
    left, top = int(x * (image.width - width + 1)), int(y * (image.height - height + 1))
    return resized(image, (size, size), (left, top, left + width, top + height)).contiguous()


def _shifted(pixels: Tensor, seeds: Sequence[int], noise: float = 0.03) -> Tensor:
    size = pixels.shape[2]
    reach = size // 8
    padded = torch.nn.functional.pad(pixels.float().div_(255), (reach,) * 4, mode="replicate")
    moved, drawn = (torch.empty(pixels.shape) for _ in range(2))
    generator = torch.Generator()
    for row, seed in enumerate(seeds):
        down, right = torch.randint(0, 2 * reach + 1, (2,), generator=generator.manual_seed(seed)).tolist()
        moved[row] = padded[row, :, down : down + size, right : right + size]
        drawn[row] = torch.randn(pixels.shape[1:], generator=generator)
    return moved + noise * drawn
