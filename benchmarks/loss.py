"""The DRRho-CLIP loss alone, forward and backward, against a straightforward one on autograd: time and peak memory."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import normalize

from drrho_clip import distributed
from drrho_clip.method import global_contrastive_loss

LOCAL, WORLD_SIZE, DIMENSION = 512, 8, 512  # 4,096 samples in all
TEMPERATURE, GAMMA, EPS = 0.1, 0.8, 0.01
REPEATS = 7
COMPARED = f"B_local {LOCAL}, B_global {LOCAL * WORLD_SIZE}, d {DIMENSION}, float32: ours over autograd on the whole blocks"


def loss_time() -> dict[str, Any]:
    """Median time of a step, both in turn."""
    times: dict[str, list[float]] = {"ours": [], "autograd": []}
    for _ in range(REPEATS):
        for name, step in (("ours", ours), ("autograd", autograd)):
            inputs = make_inputs()
            started = time.perf_counter()
            step(*inputs)
            times[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {"ratio": seconds["ours"] / seconds["autograd"], "goal": 1.0, "compared": "time, " + COMPARED, "seconds": seconds}


def loss_memory() -> dict[str, Any]:
    """Peak memory above that of the inputs, each in a process of its own."""
    grown = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for step in (ours, autograd):
            grown[step.__name__] = pool.apply(peak, (step,))
    return {"ratio": grown["ours"] / grown["autograd"], "goal": 0.5, "compared": "peak memory, " + COMPARED, "megabytes": grown}


def peak(step: Callable[..., None]) -> float:
    """Megabytes by which a step raises the peak of this process; a small one before brings in what is loaded once."""
    step(*(part[:16] for part in make_inputs()))
    inputs = make_inputs()
    return peak_of(lambda: step(*inputs))


def peak_of(work: Callable[[], None]) -> float:
    """Megabytes by which some work raises the peak of this process above what it holds before."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is held now
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def make_inputs() -> tuple[Tensor, ...]:
    """image, text, reference's image and text [LOCAL, d], unit norm, the first two with gradient."""
    generator = torch.Generator().manual_seed(0)
    image, text, *reference = (normalize(torch.randn(LOCAL, DIMENSION, generator=generator), dim=1) for _ in range(4))
    return image.requires_grad_(), text.requires_grad_(), *reference


def ours(image: Tensor, text: Tensor, *reference: Tensor) -> None:
    """One of eight ranks, all of which have the same features: what is gathered is repeated instead."""
    with (
        mock.patch.object(distributed, "world_size", return_value=WORLD_SIZE),
        mock.patch.object(distributed, "gather", lambda tensor: tensor.detach().repeat(WORLD_SIZE, *(1,) * (tensor.ndim - 1))),
        mock.patch.object(distributed, "sum_over_ranks", lambda tensor: tensor * WORLD_SIZE),
    ):
        log_u = torch.zeros(len(image), 2)
        loss, _ = global_contrastive_loss(
            (image, text), (reference[0], reference[1]), log_u, temperature=TEMPERATURE, gamma=GAMMA, eps=EPS
        )
        loss.backward()  # type: ignore[no-untyped-call]


def autograd(image: Tensor, text: Tensor, *reference: Tensor) -> None:
    """Own anchors against all features, which take gradients as open_clip's gather_with_grad gives them."""
    images, texts = (side.detach().repeat(WORLD_SIZE, 1).requires_grad_() for side in (image, text))
    reference_images, reference_texts = (side.repeat(WORLD_SIZE, 1) for side in reference)
    sides = [(image, texts, text, reference[0], reference_texts), (text, images, image, reference[1], reference_images)]
    loss = image.new_zeros(())
    for own, everything, partner, own_reference, reference_all in sides:
        true_pair = (own * partner).sum(1, keepdim=True) - (reference[0] * reference[1]).sum(1, keepdim=True)
        shifted = (own @ everything.T - own_reference @ reference_all.T - true_pair) / TEMPERATURE
        hidden = torch.eye(len(own), len(everything), dtype=torch.bool)
        exponentials = shifted.exp().masked_fill(hidden, 0).mean(1)
        u = (1 - GAMMA) * torch.ones(len(own)) + GAMMA * (EPS + exponentials.detach())
        loss = loss + (TEMPERATURE * exponentials / u).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
