"""Architectures, their sizes and tokenizers."""

from __future__ import annotations

import logging

import pytest
import torch
from open_clip import factory

from drrho_clip.errors import ModelError
from drrho_clip.models import architecture_info, create_model, known_architectures, tokenizer
from drrho_clip.models.architectures import CONFIGS

OWN = sorted(path.stem for path in CONFIGS.glob("*.json"))


@pytest.mark.parametrize("architecture", OWN)
def test_our_architectures_are_as_their_info_says(architecture: str):
    info = architecture_info(architecture)
    model = create_model(architecture)
    tokens = tokenizer(architecture)(["a red fox", "x " * 100])
    assert tokens.shape == (2, info.context_length)
    assert tokens.dtype == torch.int64
    images = torch.zeros(2, 3, info.image_size, info.image_size)
    assert model.encode_image(images).shape == model.encode_text(tokens).shape == (2, info.embed_dim)
    assert model.visual.preprocess_cfg["mean"] == info.mean
    assert model.visual.preprocess_cfg["std"] == info.std
    assert model.training


def test_info_of_an_open_clip_architecture():
    info = architecture_info("ViT-B-16")
    assert (info.image_size, info.context_length, info.embed_dim) == (224, 77, 512)
    assert architecture_info("ViT-B/16").embed_dim == 512


def test_weights_follow_the_seed():
    torch.manual_seed(1)
    first = create_model("drrho-nano").state_dict()
    torch.manual_seed(1)
    second = create_model("drrho-nano").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("use", [architecture_info, create_model, tokenizer])
def test_unknown_architecture_names_the_nearest(use):
    with pytest.raises(ModelError, match=r"Unknown architecture 'drrho-smal'.*drrho-small"):
        use("drrho-smal")


def test_a_tokenizer_of_the_hub_that_is_not_there_says_what_to_do():
    with pytest.raises(ModelError, match=r"The tokenizer 'roberta-base'.*(pip install transformers|hf download roberta-base)"):
        tokenizer("roberta-ViT-B-32")


def test_open_clip_learns_our_architectures_once():
    assert set(OWN) <= set(known_architectures())
    before = len(factory._MODEL_CONFIG_PATHS)
    architecture_info("drrho-tiny")
    assert len(factory._MODEL_CONFIG_PATHS) == before


def test_building_leaves_the_root_logger_alone():
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters))
    create_model("drrho-nano")
    assert (root.handlers, root.filters) == before
