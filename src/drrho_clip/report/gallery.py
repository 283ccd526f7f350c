"""The samples that a run weighs most and least, with small pictures; captions come from the web and stay text."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drrho_clip.errors import DataError, DrrhoError
from drrho_clip.report.text import SHOWN, readable, shorten
from drrho_clip.storage import Store, layout

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from drrho_clip.data.manifest import Manifest
    from drrho_clip.data.reader import SampleReader

THUMBNAIL = 144  # pixels of the longer side
BINS = 20  # of the histogram of the weights


@dataclass(frozen=True)
class Weights:
    """Per-sample weights of a run, [n]: the share of its gradient that a sample keeps, mean of its image and text side.

    1 is all of it, as FastCLIP gives every sample; near 0 its moving average u has fallen under eps.
    """

    index: np.ndarray
    weight: np.ndarray

    def ends(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the `count` largest (largest first) and smallest (smallest first) weights; no sample is in both."""
        order = self.weight.argsort(kind="stable")
        return order[::-1][: min(count, (len(order) + 1) // 2)], order[: min(count, len(order) // 2)]

    @property
    def top(self) -> float:
        """Upper end of the histogram: the largest weight, at least 1."""
        return max(1.0, float(self.weight.max(initial=0.0)))

    def histogram(self) -> list[int]:
        """Samples per bin, BINS equal bins from 0 to `top`."""
        import numpy as np

        counts, _ = np.histogram(self.weight.clip(0, None), bins=BINS, range=(0, self.top))
        return [int(count) for count in counts]


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


def load_weights(store: Store, run: str) -> Weights | None:
    """Read the weights of a run, None where it has none; samples without a weight are left out. 30 bytes of memory a sample."""
    key = layout.run_weights(run)
    if store.head(key) is None:
        return None
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="drrho-report-") as folder:
        path = Path(folder) / "weights.parquet"
        store.download(key, path)
        try:
            table = pq.read_table(path, columns=["index", "image_weight", "text_weight"])
            index = table.column("index").to_numpy().astype(np.int64)
            image, text = (table.column(name).to_numpy().astype(np.float32) for name in ("image_weight", "text_weight"))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(
                f"The weights cannot be read: {error}", where=store.uri_of(key), fix="Delete them and train the run again."
            ) from None
    weight = (image + text) / 2
    known = np.isfinite(weight)
    return Weights(index[known], weight[known])


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
