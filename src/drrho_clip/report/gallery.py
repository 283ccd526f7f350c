"""The samples that a run weighs most and least, with small pictures; captions come from the web and stay text."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drrho_clip.errors import DrrhoError
from drrho_clip.report.text import SHOWN, readable, shorten

if TYPE_CHECKING:
    from PIL.Image import Image

    from drrho_clip.data.manifest import Manifest
    from drrho_clip.data.reader import SampleReader
    from drrho_clip.data.weights import Weights

THUMBNAIL = 144  # pixels of the longer side


@dataclass(frozen=True)
class Tile:
    """One sample of the gallery: all text is to be escaped by whoever shows it. `image` is a data URI, "" where there is none."""

    index: int
    weight: float
    caption: str = ""
    shortened: int = 0  # characters of the whole caption, 0 where all of it is shown
    key: str = ""
    exchanged: bool = False
    image: str = ""
    small: bool = False  # fewer pixels than the place it is shown at
    problem: str = ""


@dataclass(frozen=True)
class Gallery:
    """Both ends of a run's weights, the distribution between them, and the credit of the pictures."""

    run: str
    samples: int
    histogram: Sequence[int]
    top: float  # where the histogram ends
    largest: Sequence[Tile]
    smallest: Sequence[Tile]
    notice: str


def make_gallery(reader: SampleReader, manifest: Manifest, run: str, weights: Weights, count: int) -> Gallery:
    """Read the `count` samples of either end through `reader`; one that cannot be read keeps its place and says why."""
    largest, smallest = weights.ends(count)
    tiles = [[_tile(reader, int(weights.index[i]), float(weights.weight[i])) for i in end] for end in (largest, smallest)]
    return Gallery(run, len(weights.weight), weights.histogram(), weights.top, tiles[0], tiles[1], manifest.notice)


def _tile(reader: SampleReader, index: int, weight: float) -> Tile:
    from drrho_clip.data.images import decode_image

    try:
        sample = reader.get(index)
        picture = decode_image(sample.image)
    except (DrrhoError, IndexError) as error:
        return Tile(index, weight, problem=readable(str(error)))
    caption = readable(sample.caption)
    return Tile(
        index,
        weight,
        caption=shorten(caption),
        shortened=len(caption) if len(caption) > SHOWN else 0,
        key=shorten(readable(str(sample.meta.get("key", "")))),
        exchanged=bool(sample.meta.get("exchanged", False)),
        image=thumbnail(picture),
        small=max(picture.size) < THUMBNAIL // 2,
    )


def thumbnail(picture: Image) -> str:
    """The picture as a WebP data: URI of at most THUMBNAIL pixels a side; smaller ones keep their size."""
    picture = picture.copy()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75, lossless=max(picture.size) < THUMBNAIL // 2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
