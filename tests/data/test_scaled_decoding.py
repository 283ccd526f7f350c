"""Pictures that are decoded no larger than they are needed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from drrho_clip.data.images import decode_image


def smooth(size: tuple[int, int]) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, quality=95)
    return stream.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("size", "decoded"), [((800, 600), (400, 300)), ((2000, 1800), (250, 225)), ((448, 447), (448, 447)), ((99, 99), (99, 99))]
)
def test_a_jpeg_is_decoded_no_smaller_than_it_is_needed(size: tuple[int, int], decoded: tuple[int, int]):
    whole = smooth(size)
    data = encoded(whole, "JPEG")
    image = decode_image(data, shorter=224)
    assert image.size == decoded
    assert np.abs(pixels(image) - pixels(whole.resize(decoded, Image.Resampling.BOX))).mean() < 3
    assert decode_image(data).size == size
    assert np.array_equal(pixels(image), pixels(decode_image(data, shorter=224)))


def test_other_formats_are_decoded_whole():
    assert decode_image(encoded(smooth((800, 600)), "PNG"), shorter=224).size == (800, 600)
