"""The global contrastive loss of SogCLR, FastCLIP and DRRho-CLIP as a pure function, for trainers of any kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drrho_clip.errors import DataError
from drrho_clip.method.contrastive import (
    Contrast,
    Exponential,
    GlobalBatch,
    Pair,
    contrast,
    full_precision,
    with_gradient,
)


def moving_average(log_u: Tensor, log_sum_exp: Tensor, count: Tensor, *, gamma: float, eps: float) -> Tensor:
    """Return log u of this visit, [b, 2]: (1 - gamma) u + gamma (eps + mean_{j != i} exp d); NaN in `log_u` means never seen.

    The mean divides by the batch size, as the paper's code does.
    """
    batch = log_sum_exp - torch.log(count.to(log_sum_exp.dtype))
    if eps > 0:
        batch = torch.logaddexp(batch, torch.full_like(batch, math.log(eps)))
    if gamma >= 1:
        return batch
    mixed = torch.logaddexp(log_u.to(batch.dtype) + math.log1p(-gamma), batch + math.log(gamma))
    return torch.where(torch.isnan(log_u), batch, mixed)


def with_u(log_u: Tensor, *, gamma: float, eps: float) -> Exponential:
    """The rule of the global objectives: each negative's exp(d) over the moving average u of its anchor."""
    return Exponential(lambda log_sum_exp, count: moving_average(log_u, log_sum_exp, count, gamma=gamma, eps=eps))


def global_loss(sums: Contrast, features: Pair, temperature: Tensor, *, negatives: Tensor, rho: float) -> Tensor:
    """The global contrastive loss from sums normalised by u: exact gradient, and the value that the paper's code gives."""
    tau = temperature.detach().to(sums.mean_normaliser.dtype)
    difference, log_u = sums.mean_difference.sum() / negatives, sums.mean_normaliser.sum()
    value = difference + rho * tau + log_u * tau / 2
    parts = [(side, gradient / negatives) for side, gradient in zip(features, sums.gradient, strict=True)]
    return with_gradient(value, *parts, (temperature, rho + log_u / 2 - difference / tau))


def global_contrastive_loss(
    features: Pair,
    reference: Pair | None,
    log_u: Tensor,
    *,
    temperature: float | Tensor,
    gamma: float,
    eps: float,
    rho: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The global contrastive loss of FastCLIP (no reference) or DRRho-CLIP (arXiv 2505.06699, equation 10) on one batch.

    features, reference: (image [n, d], text [n, d]), unit norm; reference may be None. log_u: [n, 2], the moving averages of
    these samples (image side, text side), NaN = never seen. temperature: a float or a 0-d tensor, which then gets its gradient
    too (including the radius term rho * temperature). Returns (loss, new log_u [n, 2], detached). DataError for what cannot be
    meant: shapes that do not fit, features that are not unit norm, gamma outside (0, 1], temperature <= 0, eps < 0.

    In a process group each rank passes its own samples; the gradients are scaled so that their mean over ranks, as DDP takes it,
    is the gradient of the global batch.
    The value of the loss is made for its gradient; the objective's own value is temperature * mean(log_u.sum(1)).
    """
    tau = temperature if isinstance(temperature, Tensor) else torch.tensor(float(temperature), device=features[0].device)
    _refuse(not 0 < gamma <= 1, f"gamma must lie in (0, 1], got {gamma}")
    _refuse(not tau.detach().item() > 0, f"the temperature must be positive, got {tau.detach().item()}")
    _refuse(not eps >= 0, f"eps must be at least 0, got {eps}")
    _refuse(log_u.shape != (len(features[0]), 2), f"log_u is {list(log_u.shape)}, expected [{len(features[0])}, 2]")
    check_features(features, reference)
    valid = torch.ones(len(log_u), dtype=torch.bool, device=features[0].device)
    batch = GlobalBatch(features, reference, valid)
    sums = contrast(batch, full_precision(tau.detach()), with_u(log_u, gamma=gamma, eps=eps), steered=reference is not None)
    return global_loss(sums, features, tau, negatives=batch.count - 1, rho=rho), sums.normaliser


def check_features(features: Pair, reference: Pair | None) -> None:
    """Refuse pairs whose shapes do not fit each other, and features that are not unit norm (the first ones are looked at)."""
    for what, pair in (("features", features), ("reference", reference)):
        if pair is None:
            continue
        shapes = [list(side.shape) for side in pair]
        fits = shapes[0] == shapes[1] and len(shapes[0]) == 2 and shapes[0][0] == len(features[0])
        _refuse(not fits, f"the {what} are {shapes[0]} and {shapes[1]}, expected twice [{len(features[0])}, d]")
        _refuse(not all(side.is_floating_point() for side in pair), f"the {what} are {pair[0].dtype} and {pair[1].dtype}")
        norm = torch.stack([side[:1].detach().float().norm() for side in pair])
        _refuse(bool((norm - 1).abs().max() > 0.01), f"the {what} must have unit norm, got {norm.max().item():.3g}")


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise DataError(f"The contrastive loss is not defined: {what}")
