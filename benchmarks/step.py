"""The whole training step of DRRho-CLIP, with stored reference features, over that of OpenCLIP on the same model and batch."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from drrho_clip.method import METHODS
from drrho_clip.models import create_model

BATCH, REPEATS, ARCHITECTURE = 256, 9, "drrho-small"


def step_time() -> dict[str, Any]:
    """Median time of forward, loss, backward and update, the methods in turn."""
    torch.manual_seed(0)
    images, tokens = torch.randn(BATCH, 3, 32, 32), torch.randint(1, 1000, (BATCH, 16))
    reference = tuple(normalize(torch.randn(BATCH, 96), dim=1).half() for _ in range(2))
    index, valid = torch.arange(BATCH), torch.ones(BATCH, dtype=torch.bool)
    methods = ("openclip", "fastclip", "drrho", "drrho_cvar", "distillation")
    parts = {method: _make(method) for method in methods}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(REPEATS):
        for method, (model, objective, optimiser) in parts.items():
            started = time.perf_counter()
            features = tuple(normalize(side, dim=1) for side in (model.encode_image(images), model.encode_text(tokens)))
            objective(features, reference, index, valid, 0).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            times[method].append(time.perf_counter() - started)
    seconds = {method: statistics.median(values) for method, values in times.items()}
    ratios = {method: seconds[method] / seconds["openclip"] for method in methods}
    compared = f"step of drrho over openclip, {ARCHITECTURE}, batch {BATCH}, one process"
    return {"ratio": ratios["drrho"], "goal": 1.02, "compared": compared, "over_openclip": ratios, "seconds": seconds}


def _make(method: str) -> tuple[Any, nn.Module, torch.optim.Optimizer]:
    model = create_model(ARCHITECTURE)
    objective = METHODS[method].parse({}).build(samples=BATCH, epochs=1)
    return model, objective, torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-4)
