"""The counted FLOPs against the closed form of two transformers, and figures that others publish."""

from __future__ import annotations

import pytest

from drrho_clip.errors import ModelError
from drrho_clip.models.architectures import model_config
from drrho_clip.models.flops import flops_per_sample


def transformer(tokens: int, width: int, layers: int) -> int:
    """Products of all layers, two FLOPs for each multiplication: 12 width^2 a token, and attention's two of tokens^2 width."""
    return layers * 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)


@pytest.mark.parametrize("architecture", ["drrho-tiny", "drrho-small", "ViT-B-16", "ViT-B-32"])
def test_the_count_is_the_closed_form(architecture: str) -> None:
    config = model_config(architecture)
    image, text, embed = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    patches = (image["image_size"] // image["patch_size"]) ** 2
    expected = (
        2 * patches * 3 * image["patch_size"] ** 2 * image["width"]
        + transformer(patches + 1, image["width"], image["layers"])
        + 2 * image["width"] * embed
        + transformer(text["context_length"], text["width"], text["layers"])
        + 2 * text["width"] * embed
    )
    assert flops_per_sample(architecture) == expected


@pytest.mark.parametrize(("architecture", "gflops"), [("ViT-B-16", 41.09), ("ViT-B-32", 14.78), ("RN50", 18.18)])
def test_the_count_is_open_clips_own(architecture: str, gflops: float) -> None:
    """Its docs/model_profile.csv."""
    assert flops_per_sample(architecture) / 1e9 == pytest.approx(gflops, abs=0.01)


def test_a_convolution_down_to_one_pixel_is_counted() -> None:
    """A residual network on 32 pixels: batch norm refuses a single value per channel."""
    small, wide = (flops_per_sample(f"drrho-resnet-{width}") for width in (8, 16))
    assert 3 < wide / small < 4


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ModelError, match="Unknown architecture 'vit-b'"):
        flops_per_sample("vit-b")
