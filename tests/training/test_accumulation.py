"""A batch in several passes: the same gradient, less memory, the same random numbers."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from drrho_clip.method import METHODS
from drrho_clip.models import create_model
from drrho_clip.training.accumulation import forward_backward
from drrho_clip.training.trainer import Towers

BATCH = 12


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 3, 32, 32, generator=generator), torch.randint(1, 1000, (BATCH, 16), generator=generator)


def forward(towers: nn.Module, images: Tensor, tokens: Tensor):
    return towers(images, tokens)


def gradients(method: str, parts: int, *, checkpointing: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    model = create_model("drrho-nano")
    model.set_grad_checkpointing(checkpointing)
    towers = Towers(model)
    objective = METHODS[method].parse({"temperature": 0.2, "learn_temperature": True}).build(samples=BATCH, epochs=1)
    generator = torch.Generator().manual_seed(1)
    reference = tuple(normalize(torch.randn(BATCH, 8, generator=generator), dim=1) for _ in range(2))
    valid = torch.arange(BATCH) != 5
    forward_backward(
        towers, *inputs(), forward, lambda features: objective(features, reference, torch.arange(BATCH), valid, 0), parts
    )
    return [p.grad for p in (*towers.parameters(), *objective.parameters()) if p.grad is not None]


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_the_whole_batch(method):
    whole = gradients(method, 1)
    norm = torch.stack([expected.norm() for expected in whole]).norm()
    for parts in (3, 5):  # 5 does not divide
        in_parts = gradients(method, parts)
        for ours, expected in zip(in_parts, whole, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
        apart = torch.stack([(ours - expected).norm() for ours, expected in zip(in_parts, whole, strict=True)]).norm()
        assert apart < 1e-6 * norm


class Peak:
    """Most bytes that backward had to keep at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> list[Tensor]:
        held, size = Held([tensor]), tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self.drop, size)
        return held

    def drop(self, size: int) -> None:
        self.now -= size

    @staticmethod
    def unpack(held: list[Tensor]) -> Tensor:
        return held[0]


class Held(list):
    """A list that can be watched."""


def test_parts_hold_less_at_a_time():
    most = {}
    for parts in (1, 4):
        peak = Peak()
        with torch.autograd.graph.saved_tensors_hooks(peak.pack, peak.unpack):
            gradients("drrho", parts)
        most[parts] = peak.most
    assert most[4] < 0.4 * most[1]


def test_blocks_hold_less_with_gradient_checkpointing():
    most = {}
    for checkpointing in (False, True):
        peak = Peak()
        with torch.autograd.graph.saved_tensors_hooks(peak.pack, peak.unpack):
            gradients("drrho", 1, checkpointing=checkpointing)
        most[checkpointing] = peak.most
    assert most[True] < 0.5 * most[False]


class Noisy(nn.Module):
    """Towers with dropout, which notes what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.given = nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.5), []

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        features = normalize(self.dropout(self.layer(images.flatten(1))) + 1e-3, dim=1)
        self.given.append(features.detach())
        return features, features


def test_both_passes_draw_the_same_random_numbers():
    towers, objective = Noisy(), METHODS["openclip"]().build(samples=BATCH, epochs=1)
    valid = torch.ones(BATCH, dtype=torch.bool)
    forward_backward(towers, *inputs(), forward, lambda both: objective(both, None, torch.arange(BATCH), valid, 0), parts=3)
    first, second = torch.cat(towers.given[:3]), torch.cat(towers.given[3:])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[:4], first[4:8])
