"""The DRRho risk of any per-sample loss (Wei et al., arXiv 2505.06699, section 3).

With the RHO losses r_i = loss_i - reference_i of n samples, the risk is

    max over p in the simplex with D(p, 1/n) <= radius / n  of  sum_i p_i r_i

for a divergence D(p, 1/n) = 1/n sum_i phi(n p_i): Kullback-Leibler (phi(t) = t log t - t + 1), chi-square (phi(t) =
(t - 1)^2 / 2) or CVaR (phi = 0 on [0, n/k], else infinite: p_i <= 1/k). The gradient by the losses is p, since the reference is
a constant (Danskin's theorem).

Losses are [..., n], float32 or float64; leading dimensions are independent problems. Equal losses get equal weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from drrho_clip.errors import DataError

_ITERATIONS = 200  # of the safeguarded Newton method: bisection alone would need about 60


class Risk(NamedTuple):
    """A risk and the weights that attain it."""

    value: Tensor  # [...]; its gradient by the losses is `weights`
    weights: Tensor  # [..., n], no gradient; every row sums to 1
    temperature: Tensor | None = None  # [...], KL only: 0 where the largest losses alone count, inf where all count alike


def cvar(losses: Tensor, reference: Tensor | None = None, *, k: float | None = None, alpha: float | None = None) -> Risk:
    """Mean of the k = alpha * n largest RHO losses; for a fractional k the smallest of them counts in part.

    Exactly one of k in (0, n] and alpha in (0, 1] is given.
    """
    rho = _rho(losses, reference)
    n = rho.shape[-1]
    if (k is None) == (alpha is None):
        raise DataError("CVaR needs either k or alpha", fix="Give k, a number of samples, or alpha, a share of them.")
    size = alpha * n if alpha is not None else float(k or 0)
    _check(0 < size <= n, f"k must lie in (0, {n}] and alpha in (0, 1], got {f'k {k}' if alpha is None else f'alpha {alpha}'}")
    fixed = rho.detach()
    threshold = fixed.topk(math.ceil(size), dim=-1).values[..., -1:]
    above, ties = (fixed > threshold).to(rho.dtype), (fixed == threshold).to(rho.dtype)
    shared = (size - above.sum(-1, keepdim=True)) / ties.sum(-1, keepdim=True)
    return _attained(rho, (above + ties * shared) / size)


def kl_fixed(losses: Tensor, reference: Tensor | None = None, *, temperature: float | Tensor) -> Risk:
    """temperature * log mean_i exp(r_i / temperature), weights softmax(r / temperature).

    A temperature that is a tensor (0-d or [...]) gets its gradient, too.
    """
    rho = _rho(losses, reference)
    tau = torch.as_tensor(temperature, dtype=rho.dtype, device=rho.device)
    _check(bool((tau > 0).all()) and bool(tau.isfinite().all()), f"temperature must be positive, got {temperature}")
    fixed, at = rho.detach(), tau.detach()
    largest = fixed.amax(-1)
    scaled = (fixed - largest[..., None]) / at[..., None]
    near = scaled.amin(-1) > -1  # there log n would swallow the digits of the logarithm, elsewhere the 1 those of the mean
    log_mean = torch.where(near, scaled.expm1().mean(-1).log1p(), scaled.logsumexp(-1) - math.log(rho.shape[-1]))
    value, weights = largest + at * log_mean, scaled.softmax(-1)
    by_temperature = (value - (weights * fixed).sum(-1)) / at
    value = value + (weights * (rho - fixed)).sum(-1) + by_temperature * (tau - at)
    return Risk(value, weights, at.expand(value.shape))


def kl(losses: Tensor, reference: Tensor | None = None, *, radius: float) -> Risk:
    """KL ball: min over tau of tau * log mean exp(r / tau) + tau * radius / n; tau is found by a safeguarded Newton method."""
    rho = _rho(losses, reference)
    _check(0 <= radius < math.inf, f"radius must be at least 0, got {radius}")
    fixed, n = rho.detach(), rho.shape[-1]
    ties = (fixed == fixed.amax(-1, keepdim=True)).to(rho.dtype)
    spread = fixed.amax(-1) - fixed.amin(-1)
    # the divergence of the weights on the largest losses alone: no weights of a positive tau exceed it
    alone = (radius / n >= math.log(n) - ties.sum(-1).log()) & (spread > 0)
    uniform = (spread == 0) | (radius == 0)
    inside = ~alone & ~uniform
    scaled = (fixed - fixed.amax(-1, keepdim=True)) / torch.where(inside, spread, 1)[..., None]
    tau = _kl_temperature(scaled, inside, radius / n)
    weights = torch.where(inside[..., None], (scaled / tau[..., None]).softmax(-1), 1 / n)
    weights = torch.where(alone[..., None], ties / ties.sum(-1, keepdim=True), weights)
    temperature = torch.where(alone, 0, torch.where(uniform, math.inf, tau * spread))
    return _attained(rho, weights)._replace(temperature=temperature)


def chi_square(losses: Tensor, reference: Tensor | None = None, *, radius: float) -> Risk:
    """Chi-square ball: mean(r) + sqrt(2 radius Var(r) / n) while every weight is positive, else the exact projection.

    The weights are affine in r on the largest m losses and 0 on the rest; m is the largest number for which they are positive.
    """
    rho = _rho(losses, reference)
    _check(0 <= radius < math.inf, f"radius must be at least 0, got {radius}")
    fixed, n = rho.detach(), rho.shape[-1]
    spread = (fixed.amax(-1, keepdim=True) - fixed.amin(-1, keepdim=True)).clamp_min(torch.finfo(rho.dtype).tiny)
    scaled = ((fixed - fixed.amax(-1, keepdim=True)) / spread).double()  # sums of squares cancel
    ordered = scaled.sort(-1, descending=True).values
    m = torch.arange(1, n + 1, dtype=torch.float64, device=rho.device)
    mean = ordered.cumsum(-1) / m
    squares = (ordered.square().cumsum(-1) - m * mean.square()).clamp_min(0)  # of the deviations of the largest m
    budget = 2 * radius - n * (n - m) / m  # what is left of the radius for slope, the others having weight 0
    slope = (budget.clamp_min(0) / squares.clamp_min(1e-300)).sqrt() / n
    fits = (budget >= 0) & (squares > 0) & (1 / m + slope * (ordered - mean) >= 0)
    count = torch.where(fits, m, 0).amax(-1, keepdim=True).long()
    at = (count - 1).clamp_min(0)
    weights = (1 / m[at] + slope.gather(-1, at) * (scaled - mean.gather(-1, at))) * (scaled >= ordered.gather(-1, at))
    # no m fits: all losses are equal, or the radius reaches the largest losses alone
    ties = (scaled == 0).double()
    weights = torch.where(count > 0, weights.clamp_min(0), ties)
    return _attained(rho, (weights / weights.sum(-1, keepdim=True)).to(rho.dtype))


def _kl_temperature(scaled: Tensor, wanted: Tensor, divergence: float) -> Tensor:
    """Solve KL(softmax(scaled / tau), 1/n) = divergence for tau [...] where `wanted`; scaled [..., n] spans [-1, 0].

    In log tau the divergence falls from log(n / ties) to 0, with derivative -Var_p(scaled) / tau^2. As d KL / d(1 / tau) is at
    most 1 / (4 tau), KL <= 1 / (8 tau^2) bounds tau from above; below 1/1000 of the smallest gap only the ties have weight.
    """
    gap = torch.where(scaled < 0, -scaled, 1).amin(-1)
    low, high = (gap / 1000).log(), torch.full_like(gap, 0.5 * math.log(1 / (8 * divergence or 1)) + 1e-3)
    high = torch.maximum(high, low + 1)
    point = (low + high) / 2
    for _ in range(_ITERATIONS):
        tau = point.exp()
        logits = scaled / tau[..., None]
        p = logits.softmax(-1)
        mean = (p * logits).sum(-1)
        excess = mean - logits.logsumexp(-1) + math.log(scaled.shape[-1]) - divergence
        low, high = torch.where(excess > 0, point, low), torch.where(excess > 0, high, point)
        variance = (p * (logits - mean[..., None]).square()).sum(-1)
        newton = point + excess / variance.clamp_min(torch.finfo(tau.dtype).tiny)
        inside = (newton > low) & (newton < high)
        following = torch.where(inside, newton, (low + high) / 2)
        moved = ((following - point).abs() > 4 * torch.finfo(tau.dtype).eps * point.abs().clamp_min(1)) & wanted
        point = following
        if not moved.any():
            break
    return torch.where(wanted, point.exp(), 1)


def _rho(losses: Tensor, reference: Tensor | None) -> Tensor:
    """The RHO losses, once everything that cannot be meant has been refused."""
    _check(losses.dtype in (torch.float32, torch.float64), f"losses must be float32 or float64, got {losses.dtype}")
    _check(losses.ndim > 0 and losses.shape[-1] > 0, f"losses must be [..., n] with n > 0, got {list(losses.shape)}")
    if reference is not None:
        same = reference.shape == losses.shape and reference.dtype == losses.dtype
        given, expected = (f"{list(side.shape)} {side.dtype}" for side in (reference, losses))
        _check(same, f"the reference's losses are {given}, the target's {expected}")
        losses = losses - reference.detach()
    _check(bool(losses.detach().isfinite().all()), "losses must be finite")
    return losses


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise DataError(f"The risk is not defined: {what}")


def _attained(rho: Tensor, weights: Tensor) -> Risk:
    return Risk((weights * rho).sum(-1), weights)
