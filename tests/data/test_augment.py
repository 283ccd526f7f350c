import numpy as np
import pytest
import torch
from PIL import Image

from drrho_clip.data.augment import ImageBatcher

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_without_augmentation_pixels_are_fitted_and_normalised():
    image = Image.new("RGB", (48, 32), (255, 0, 51))
    batch = ImageBatcher(16, MEAN, STD)([image], 0, [0])
    assert batch.shape == (1, 3, 16, 16)
    expected = [(1.0 - 0.5) / 0.2, (0.0 - 0.4) / 0.3, (0.2 - 0.3) / 0.4]
    torch.testing.assert_close(batch[0].mean((1, 2)), torch.tensor(expected))


def test_the_centre_is_kept():
    image = picture()
    image.paste((255, 255, 255), (0, 0, 8, 32))  # outside of the centred 32 x 32 square
    fitted = ImageBatcher(32, (0, 0, 0), (1, 1, 1))([image], 0, [0])[0]
    np.testing.assert_allclose(fitted.permute(1, 2, 0).numpy() * 255, np.asarray(image)[:, 8:40], atol=1e-3)


@pytest.mark.parametrize("augmentation", ["shift", "crop"])
def test_augmentation_depends_on_seed_step_and_sample_alone(augmentation):
    make = ImageBatcher(16, MEAN, STD, augmentation, seed=3)
    first, second = make([picture(), picture()], 5, [10, 11])
    torch.testing.assert_close(make([picture()], 5, [11])[0], second)
    others = [make([picture()], 6, [10])[0], second, ImageBatcher(16, MEAN, STD, augmentation, seed=4)([picture()], 5, [10])[0]]
    assert not any(torch.equal(first, other) for other in others)


def test_an_unreadable_image_becomes_zeros():
    batch = ImageBatcher(8, MEAN, STD, "shift")([None, picture()], 0, [0, 1])
    assert not batch[0].any()
    assert batch[1].any()
