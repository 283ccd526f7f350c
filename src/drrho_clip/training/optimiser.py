"""AdamW with CLIP's weight-decay groups, and the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from drrho_clip.training.config import TrainConfig


def make_optimiser(model: nn.Module, objective: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW: matrices decay; gains, biases and single numbers do not; a learnt temperature has its own learning rate."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        _group("matrices", [p for p in trained if p.ndim >= 2], config.learning_rate, config.weight_decay),
        _group("vectors", [p for p in trained if p.ndim < 2], config.learning_rate, 0.0),
    ]
    temperature = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if temperature:
        groups.append(
            _group("temperature", temperature, config.objective().temperature_learning_rate or config.learning_rate, 0.0)
        )
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.adam_eps, fused=True)


def _group(name: str, parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> dict[str, object]:
    return {"name": name, "params": parameters, "lr": learning_rate, "base_lr": learning_rate, "weight_decay": weight_decay}


def schedule(step: int, *, steps: int, warmup: int) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_learning_rate(groups: Iterable[dict[str, float]], factor: float) -> None:
    """Multiply every group's own learning rate by `factor`."""
    for group in groups:
        group["lr"] = group["base_lr"] * factor
