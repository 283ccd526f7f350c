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
    meant: shapes or types that do not fit, features that are not unit norm, a batch without negatives, gamma outside (0, 1],
    temperature <= 0, eps < 0, rho < 0.

    In a process group each rank passes its own samples; the gradients are scaled so that their mean over ranks, as DDP takes it,
    is the gradient of the global batch.
    The value of the loss is made for its gradient; the objective's own value is temperature * mean(log_u.sum(1)).
    """
    dtype = full_precision(features[0]).dtype
    tau = (
        temperature
        if isinstance(temperature, Tensor)
        else torch.tensor(float(temperature), dtype=dtype, device=features[0].device)
    )
    _refuse(tau.ndim > 0, f"the temperature must be one number, got {list(tau.shape)}")
    _refuse(not 0 < tau.detach().item() < math.inf, f"the temperature must be positive, got {tau.detach().item()}")
    _refuse(not 0 < gamma <= 1, f"gamma must lie in (0, 1], got {gamma}")
    _refuse(not 0 <= eps < math.inf, f"eps must be at least 0, got {eps}")
    _refuse(not 0 <= rho < math.inf, f"the radius rho must be at least 0, got {rho}")
    check_features(features, reference)
    fits = log_u.shape == (len(features[0]), 2) and log_u.is_floating_point()
    _refuse(not fits, f"log_u is {list(log_u.shape)} {log_u.dtype}, expected [{len(features[0])}, 2] of floating point")
    valid = torch.ones(len(log_u), dtype=torch.bool, device=features[0].device)
    batch = GlobalBatch(features, reference, valid)
    _refuse(len(batch.valid) < 2, "a batch of one sample has no negatives")
    sums = contrast(batch, full_precision(tau.detach()), with_u(log_u, gamma=gamma, eps=eps), steered=reference is not None)
    return global_loss(sums, features, tau, negatives=batch.count - 1, rho=rho), sums.normaliser


def check_features(features: Pair, reference: Pair | None) -> None:
    """Refuse pairs whose shapes or types do not fit each other, and features that are not unit norm (the first are looked at)."""
    for what, pair in (("features", features), ("reference", reference)):
        if pair is None:
            continue
        shapes = [list(side.shape) for side in pair]
        fits = shapes[0] == shapes[1] and len(shapes[0]) == 2 and shapes[0][0] == len(features[0])
        _refuse(not fits, f"the {what} are {shapes[0]} and {shapes[1]}, expected twice [{len(features[0])}, d]")
        types = [side.dtype for side in pair]
        same = types[0] == types[1] and types[0].is_floating_point
        _refuse(not same, f"the {what} are {types[0]} and {types[1]}, expected twice the same floating point")
        norm = torch.stack([side[:1].detach().float().norm() for side in pair])
        _refuse(not bool(((norm - 1).abs() <= 0.01).all()), f"the {what} must have unit norm, got {norm.tolist()}")


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise DataError(f"The contrastive loss is not defined: {what}")
