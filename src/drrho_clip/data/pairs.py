"""Samples as a model takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drrho_clip.data.images import BadImage, decode_image
from drrho_clip.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from drrho_clip.data.reader import Sample


def image_and_caption(sample: Sample) -> tuple[Image, str]:
    """Decode a sample; DataError where its image, verified when it was ingested, cannot be decoded any more."""
    try:
        return decode_image(sample.image), sample.caption
    except BadImage as error:
        raise DataError(
            f"The image of sample {sample.index} cannot be decoded: {error.detail}",
            where=f"key {sample.meta.get('key', '?')}",
            fix="Ingest the data again under a new dataset name; such images are then left out.",
        ) from None
