"""From a super-batch to the batch: how the model looks at it, and in which state it is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from drrho_clip.data.loader import Batch, BatchMaker
from drrho_clip.method import METHODS
from drrho_clip.method.objective import SelectedContrastive
from drrho_clip.training.selection import choose

READ, SIZE = 20, 4


class Dropping(nn.Module):
    """Towers with dropout and a part whose statistics are frozen; notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.frozen = nn.Linear(12, 8), nn.Dropout(0.5), nn.BatchNorm1d(8).eval()
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append((self.training, torch.is_inference_mode_enabled()))
        image = self.frozen(self.dropout(self.layer(images.flatten(1))))
        return normalize(image + 1e-3, dim=1), normalize(tokens.float(), dim=1)


def super_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    reference = normalize(torch.randn(READ, 2, 6, generator=generator), dim=2).half()
    images, tokens = torch.randn(READ, 3, 2, 2, generator=generator), torch.randint(1, 9, (READ, 8), generator=generator)
    return Batch(images, tokens, torch.arange(READ) + 100, torch.ones(READ, dtype=torch.bool), reference)


def chosen(method: str, towers: nn.Module, fail: bool = False) -> tuple[list[int], list[Tensor]]:
    """Indices that were chosen, and the image features that they were chosen by."""
    objective = cast(SelectedContrastive, METHODS[method]().build(samples=200, epochs=1))
    scored: list[Tensor] = []

    def forward(towers: nn.Module, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if fail:
            raise RuntimeError("out of memory")
        features: tuple[Tensor, Tensor] = towers(images, tokens)
        scored.append(features[0])
        return features

    def read(index: np.ndarray, step: int) -> Any:
        return SimpleNamespace(to=lambda _device: index.tolist())

    make = cast(BatchMaker, SimpleNamespace(read=read))
    return choose(objective, make, super_batch(), towers, forward, size=SIZE, seed=0, step=3), scored


@pytest.mark.parametrize("method", ["rho_topk", "jest", "jest_topk"])
def test_a_model_with_dropout_is_scored_without_it_and_left_as_it_was(method: str):
    torch.manual_seed(0)
    towers = Dropping()
    modes = [part.training for part in towers.modules()]
    index, scored = chosen(method, towers)
    assert len(index) == SIZE
    assert towers.calls == [(False, True)] * 5
    assert [part.training for part in towers.modules()] == modes == [True, True, True, False]
    with_dropout = towers(super_batch().images, super_batch().tokens)[0]
    plain = towers.eval()(super_batch().images, super_batch().tokens)[0]
    torch.testing.assert_close(torch.cat(scored), plain, rtol=0, atol=1e-6)
    assert not torch.allclose(with_dropout, plain, atol=0.1)
    assert chosen(method, towers.train())[0] == index  # nothing is drawn but by seed and step


def test_a_failure_while_scoring_leaves_the_model_training():
    towers = Dropping()
    with pytest.raises(RuntimeError, match="out of memory"):
        chosen("jest", towers, fail=True)
    assert [part.training for part in towers.modules()] == [True, True, True, False]


def test_no_gradient_is_left_and_the_model_can_train_on():
    towers = Dropping()
    _, scored = chosen("jest", towers)
    assert all(features.is_inference() for features in scored)
    towers(super_batch().images, super_batch().tokens)[0].sum().backward()
    assert towers.layer.weight.grad is not None
