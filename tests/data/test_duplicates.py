from __future__ import annotations

import io
import random

import pytest
from bad_server import image_for
from PIL import Image
from source_helpers import picture

from drrho_clip.data.duplicates import HashSet
from drrho_clip.data.images import looks_of


def test_a_hash_set_is_a_set() -> None:
    numbers = random.Random(0)
    values = [numbers.getrandbits(64) for _ in range(5000)] + [2**64 - 1, 1 << 12, 2 << 12, 3 << 12]
    found = HashSet()
    for value in values:
        assert value not in found
        found.add(value)
        assert value in found
        found.add(value)
    assert len(found) == len(values)
    assert all(value in found for value in values)
    assert sum(numbers.getrandbits(64) in found for _ in range(5000)) == 0


def large(name: str) -> Image.Image:
    return Image.open(io.BytesIO(image_for(name, 256)))


def looks(name: str) -> tuple[int, ...]:
    return looks_of(large(name))


def test_copies_of_another_size_and_quality_look_the_same() -> None:
    found = 0
    for name in (f"cloud {number}" for number in range(30)):
        for side, quality in ((128, 60), (200, 80)):
            buffer = io.BytesIO()
            large(name).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
            found += looks(name)[0] in looks_of(Image.open(buffer))
    assert found >= 0.8 * 60


def test_other_pictures_look_different() -> None:
    own = {looks(f"cloud {number}")[0] for number in range(150)}
    assert len(own) == 150
    others = [looks(f"other {number}") for number in range(150)]
    assert not any(own.intersection(each) for each in others)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_has_no_look(level: int) -> None:
    assert looks_of(Image.open(io.BytesIO(picture(level)))) == ()
