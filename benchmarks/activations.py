"""A step of a large model in less memory: gradient checkpointing, and the batch in parts, over the plain step."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.loss import peak_of
from drrho_clip.method import METHODS
from drrho_clip.method.contrastive import Pair
from drrho_clip.method.objective import ObjectiveResult
from drrho_clip.models import create_model
from drrho_clip.training.accumulation import forward_backward
from drrho_clip.training.trainer import Towers

ARCHITECTURE, BATCH, REPEATS = "ViT-B-32", 64, 3
WAYS = {"plain": (False, 1), "checkpointing": (True, 1), "parts": (False, 4), "both": (True, 4)}
"""Whether blocks are computed again, and in how many parts the batch goes through the model."""


def activations() -> dict[str, Any]:
    """Peak memory above that of the model and the batch, and the median time, each way in a process of its own."""
    found = {}
    for name, way in WAYS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(_measured, way)
    memory, seconds = ({name: values[place] for name, values in found.items()} for place in (0, 1))
    return {
        "ratio": memory["checkpointing"] / memory["plain"],
        "goal": 0.5,
        "compared": f"peak memory of a step with gradient checkpointing over one without: {ARCHITECTURE}, batch {BATCH}, float32",
        "megabytes": memory,
        "seconds": seconds,
    }


def _measured(checkpointing: bool, parts: int) -> tuple[float, float]:
    """Megabytes of the first step, after one with a small batch, and seconds of the later ones."""
    torch.manual_seed(0)
    model: Any = create_model(ARCHITECTURE)
    model.set_grad_checkpointing(checkpointing)
    towers, objective = Towers(model), METHODS["openclip"].parse({}).build(samples=BATCH, epochs=1)
    images, tokens = torch.randn(BATCH, 3, 224, 224), torch.randint(1, 40_000, (BATCH, 77))

    def step(size: int) -> None:
        def loss_of(features: Pair) -> ObjectiveResult:
            result: ObjectiveResult = objective(features, None, torch.arange(size), torch.ones(size, dtype=torch.bool), 0)
            return result

        forward_backward(towers, images[:size], tokens[:size], _forward, loss_of, parts)

    step(4)
    memory, seconds = peak_of(lambda: step(BATCH)), []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step(BATCH)
        seconds.append(time.perf_counter() - started)
    return memory, statistics.median(seconds)


def _forward(towers: nn.Module, images: Tensor, tokens: Tensor) -> Pair:
    features: Pair = towers(images, tokens)
    return features
