import numpy as np
import pytest
import torch
from PIL import Image

from drrho_clip.data.augment import ImageBatcher, channel_bytes

MEAN = (0.5, 0.4, 0.3)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("augmentation", ["none", "crop"])
def test_pixels_are_fitted_and_stay_bytes(augmentation):
    image = Image.new("RGB", (48, 32), (255, 0, 51))
    batch = ImageBatcher(16, MEAN, augmentation)([image], 0, [0])
    assert (batch.shape, batch.dtype) == ((1, 3, 16, 16), torch.uint8)
    assert batch.element_size() == channel_bytes(augmentation)
    assert batch.is_contiguous()
    assert batch.equal(torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand_as(batch))


def test_the_noise_of_shift_is_not_rounded():
    image = Image.new("RGB", (64, 64), (255, 0, 51))
    batch = ImageBatcher(64, MEAN, "shift")([image], 0, [0])
    assert batch.dtype == torch.float32
    assert batch.element_size() == channel_bytes("shift")
    torch.testing.assert_close(batch[0].mean((1, 2)), torch.tensor([1.0, 0.0, 0.2]), atol=0.003, rtol=0)
    torch.testing.assert_close(batch[0].std((1, 2)), torch.full((3,), 0.03), atol=0.002, rtol=0)


def test_the_centre_is_kept():
    image = picture()
    image.paste((255, 255, 255), (0, 0, 8, 32))  # outside of the centred 32 x 32 square
    fitted = ImageBatcher(32, MEAN)([image], 0, [0])[0]
    assert np.array_equal(fitted.permute(1, 2, 0).numpy(), np.asarray(image)[:, 8:40])


def test_crops_are_parts_of_nearly_the_whole_picture_anywhere_in_it():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 200, 3)).copy()
    crops = ImageBatcher(100, MEAN, "crop")([Image.fromarray(ramp)] * 300, 0, range(300))[:, 0, :, 0].int()
    heights = crops[:, -1] - crops[:, 0]  # in levels, of which there is one a row
    assert 0.8 * 200 <= heights.min() < 0.87 * 200  # 90% of the area, three by four
    assert heights.max() >= 195
    assert crops[:, 0].min() <= 1  # from the upper edge on
    assert crops[:, -1].max() >= 198


@pytest.mark.parametrize("augmentation", ["shift", "crop"])
def test_augmentation_depends_on_seed_step_and_sample_alone(augmentation):
    make = ImageBatcher(16, MEAN, augmentation, seed=3)
    first, second = make([picture(), picture()], 5, [10, 11])
    torch.testing.assert_close(make([picture()], 5, [11])[0], second)
    others = [make([picture()], 6, [10])[0], second, ImageBatcher(16, MEAN, augmentation, seed=4)([picture()], 5, [10])[0]]
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("augmentation", "unit"), [("none", 1), ("crop", 1), ("shift", 1 / 255)])
def test_the_mean_stands_for_an_unreadable_image(augmentation, unit):
    batch = ImageBatcher(8, MEAN, augmentation)([None, picture()], 0, [0, 1])
    torch.testing.assert_close(batch[0].mean((1, 2), dtype=torch.float32), torch.tensor([128.0, 102, 76]) * unit)
    assert batch[1].equal(ImageBatcher(8, MEAN, augmentation)([picture()], 0, [1])[0])
    nothing = ImageBatcher(8, MEAN, augmentation)([None], 0, [0])
    torch.testing.assert_close(nothing.mean((0, 2, 3), dtype=torch.float32), torch.tensor([128.0, 102, 76]))
