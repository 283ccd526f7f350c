"""Pictures at another size, against the filter's definition in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drrho_clip.data.resize import resized


def picture(width: int, height: int, mode: str) -> Image.Image:
    """Blocks of random colours of 5 x 5 pixels, whose edges say most about a filter."""
    blocks = np.random.default_rng(0).integers(0, 256, (-(-height // 5), -(-width // 5), 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(5, 0).repeat(5, 1)[:height, :width]).convert(mode)


def naive(pixels: np.ndarray, size: int) -> np.ndarray:
    """The first axis at `size`, by Keys' kernel with a = -0.5, widened where there are fewer places than before; whole levels."""
    scale = len(pixels) / size
    out = np.zeros((size, *pixels.shape[1:]))
    for place in range(size):
        centre, total = (place + 0.5) * scale, 0.0
        for source, values in enumerate(pixels):
            x = abs(source + 0.5 - centre) / max(scale, 1)
            weight = 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0
            out[place], total = out[place] + weight * values, total + weight
        out[place] /= total
    return np.rint(out).clip(0, 255)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("before", "after"),
    [((48, 40), (28, 23)), ((60, 33), (7, 33)), ((200, 9), (100, 4)), ((9, 200), (2, 50)), ((12, 10), (31, 25))],
)
def test_the_filter_is_the_one_that_is_named(before: tuple[int, int], after: tuple[int, int], mode: str) -> None:
    image = picture(*before, mode)
    expected = np.asarray(image).astype(float).reshape(before[1], before[0], -1)
    expected = naive(naive(expected.swapaxes(0, 1), after[0]).swapaxes(0, 1), after[1])
    found = resized(image, after).permute(1, 2, 0).numpy()
    assert found.shape == (after[1], after[0], len(mode))
    assert np.abs(found - expected).max() <= 2  # each pass rounds, and has weights of 16 bits
    assert np.abs(found - expected).mean() < 0.2


def test_a_part_is_scaled_as_if_it_were_the_whole() -> None:
    image, box = picture(50, 40, "RGB"), (11, 3, 42, 30)
    assert resized(image, (20, 16), box).equal(resized(image.crop(box), (20, 16)))


def test_the_same_size_gives_the_same_pixels() -> None:
    image = picture(30, 20, "RGB")
    assert np.array_equal(resized(image, (30, 20)).permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_processors_without_wide_registers_give_the_same_bytes(mode: str, tmp_path: Path) -> None:
    """So that shards are the same wherever they are written."""
    image, size = picture(384, 300, mode), (287, 224)
    path = str(tmp_path / "picture.png")
    image.save(path)
    code = "import sys; from PIL import Image; from drrho_clip.data.resize import resized;"
    code += f"sys.stdout.buffer.write(resized(Image.open({path!r}), {size}).permute(1, 2, 0).numpy().tobytes())"
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}, capture_output=True, check=True
    )
    assert found.stdout == resized(image, size).permute(1, 2, 0).numpy().tobytes()
