"""The whole training step of DRRho-CLIP, with stored reference features, over that of OpenCLIP on the same model and batch.

The size is such that the loss is about 5% of OpenCLIP's step: were it much less, the ratio would say nothing of the loss. What is
measured is the processor's time of one thread, which other programs on the machine change little.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import normalize

from drrho_clip.method import METHODS
from drrho_clip.models import create_model

BATCH, REPEATS, ARCHITECTURE = 224, 41, "drrho-nano"
COMPARED = ("openclip", "fastclip", "drrho", "drrho_cvar", "distillation")


class Seconds(NamedTuple):
    """One step, and the loss's part of it: forward and backward as far as the features."""

    step: float
    loss: float


def step_time() -> dict[str, Any]:
    """Median over rounds of forward, loss, backward and update, in which the methods take turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _summary(_rounds())
    finally:
        torch.set_num_threads(threads)


def _rounds() -> list[dict[str, Seconds]]:
    torch.manual_seed(0)
    images, tokens = torch.randn(BATCH, 3, 32, 32), torch.randint(1, 1000, (BATCH, 16))
    reference = tuple(normalize(torch.randn(BATCH, 96), dim=1).half() for _ in range(2))
    index, valid = torch.arange(BATCH), torch.ones(BATCH, dtype=torch.bool)
    parts = {method: _make(method) for method in COMPARED}
    batch = (reference, index, valid, 0)
    rounds = [{m: _step(*parts[m], images, tokens, batch) for m in COMPARED} for _ in range(REPEATS + 1)]
    return rounds[1:]  # in the first one memory and the optimiser's state are made


def _summary(rounds: list[dict[str, Seconds]]) -> dict[str, Any]:
    ratios = {m: statistics.median(found[m].step / found["openclip"].step for found in rounds) for m in COMPARED}
    return {
        "ratio": ratios["drrho"],
        "goal": 1.02,
        "compared": f"step of drrho over openclip, {ARCHITECTURE}, batch {BATCH}, one thread",
        "over_openclip": ratios,
        "loss_share": {m: statistics.median(found[m].loss / found[m].step for found in rounds) for m in COMPARED},
        "seconds": {m: statistics.median(found[m].step for found in rounds) for m in COMPARED},
    }


def _step(
    model: Any, objective: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, tokens: torch.Tensor, batch: Any
) -> Seconds:
    started = time.process_time()
    features = [normalize(side, dim=1) for side in (model.encode_image(images), model.encode_text(tokens))]
    seen = [side.detach().requires_grad_() for side in features]
    before = time.process_time()
    objective(tuple(seen), *batch).loss.backward()
    after = time.process_time()
    torch.autograd.backward(features, [side.grad for side in seen])
    optimiser.step()
    optimiser.zero_grad()
    return Seconds(time.process_time() - started, after - before)


def _make(method: str) -> tuple[Any, nn.Module, torch.optim.Optimizer]:
    model = create_model(ARCHITECTURE)
    objective = METHODS[method].parse({}).build(samples=BATCH, epochs=1)
    return model, objective, torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-4)
