"""The contrastive sums behind every objective, over the global batch, written once and symmetric in image and text.

With s(i, j) = <image_i, text_j> (minus the reference's, if there is one) and d(i, j) = (s(i, j) - s(i, i)) / temperature, every
objective here has a gradient of the form

    constant * sum_i sum_side sum_{j != i} exp(d(i, j) - log_norm_i) * (s(i, j) - s(i, i))

and differs in the normaliser alone: log(1 + sum_j exp d) gives the cross-entropy of CLIP, log u the global contrastive loss
(SogCLR, arXiv 2202.12387). Once the normalisers of all anchors are known, a rank can form the gradient of its *own* features from
(own anchors, all negatives) and (all anchors, own features as negatives); so only features and a few scalars are gathered and no
feature gradient is ever reduced (FastCLIP, arXiv 2407.01445, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from drrho_clip import distributed

Pair = tuple[Tensor, Tensor]


class Contrast(NamedTuple):
    """The sums of one global batch: means over its valid anchors, and what belongs to the anchors of this rank."""

    log_norm: Tensor  # [b, 2] of this rank's anchors (image, text)
    mean_log_norm: Tensor  # [2] over all valid anchors
    mean_difference: Tensor  # [2] over all valid anchors, of sum_{j != i} weight(i, j) * (s(i, j) - s(i, i))
    weight: Tensor  # [b, 2] sum of the weights of an anchor
    effective_size: Tensor  # [b, 2] 1 / sum of squared normalised weights: the effective number of negatives
    gradient: (
        Pair  # of sum(mean_difference), weights held constant, by this rank's features; times the world size, for DDP's mean
    )
    valid: Tensor  # number of valid anchors in the global batch (0-d)


def contrast(
    features: Pair,
    reference: Pair | None,
    valid: Tensor,
    temperature: Tensor | float,
    normalise: Callable[[Tensor, Tensor], Tensor],
) -> Contrast:
    """Gather the global batch and form the contrastive sums.

    features, reference: (image [b, d], text [b, d]) of this rank; valid: [b] bool, false where a sample could not be read.
    normalise(log-sum-exp [b, 2] over the negatives, number of valid samples) -> log_norm [b, 2]. Takes no gradient itself.
    """
    with torch.no_grad():
        own = [full_precision(side.detach()) for side in features]
        everything = _pair(distributed.gather(torch.stack(own, 1)))
        all_valid = distributed.gather(valid)
        blocks, diagonal = _similarities((own[0], own[1]), everything, reference)
        start = distributed.rank() * len(valid)
        mine = slice(start, start + len(valid))
        hidden = ~all_valid.expand(len(valid), -1).clone()
        hidden[torch.arange(len(valid)), torch.arange(start, start + len(valid))] = True
        count = all_valid.sum()

        shifted = [((block - diagonal[mine, None]) / temperature).masked_fill_(hidden, -math.inf) for block in blocks]
        log_norm = normalise(torch.stack([side.logsumexp(1) for side in shifted], 1), count)
        weights = [torch.exp(side - log_norm[:, k, None]).masked_fill_(~valid[:, None], 0) for k, side in enumerate(shifted)]
        weight = torch.stack([side.sum(1) for side in weights], 1)
        difference = torch.stack(
            [(side * (block - diagonal[mine, None])).sum(1) for side, block in zip(weights, blocks, strict=True)], 1
        )
        scalars = distributed.gather(torch.cat([log_norm, difference], 1))
        mean = scalars.masked_fill(~all_valid[:, None], 0).sum(0) / count
        gradient = tuple(
            _feature_gradient(
                weights[k],
                _weights_of_all(blocks[k], diagonal, scalars[:, 1 - k], hidden, valid, temperature),
                weight.sum(1),
                everything[1 - k],
                mine,
            )
            * (distributed.world_size() / count)
            for k in range(2)
        )
        squares = torch.stack([side.square().sum(1) for side in weights], 1)
        return Contrast(
            log_norm, mean[:2], mean[2:], weight, weight.square() / squares.clamp_min(1e-30), (gradient[0], gradient[1]), count
        )


def _pair(stacked: Tensor) -> Pair:
    return stacked[:, 0], stacked[:, 1]


def _similarities(own: Pair, everything: Pair, reference: Pair | None) -> tuple[Pair, Tensor]:
    """Similarities of (own images, all texts) and (own texts, all images), [b, B] each, and of all true pairs, [B]."""
    blocks = [own[0] @ everything[1].T, own[1] @ everything[0].T]
    diagonal = (everything[0] * everything[1]).sum(1)
    if reference is not None:
        gathered = distributed.gather(torch.stack(reference, 1)).to(own[0].dtype).unbind(1)
        image, text = (side.to(own[0].dtype) for side in reference)
        blocks = [blocks[0] - image @ gathered[1].T, blocks[1] - text @ gathered[0].T]
        diagonal = diagonal - (gathered[0] * gathered[1]).sum(1)
    return (blocks[0], blocks[1]), diagonal


def _weights_of_all(
    block: Tensor, diagonal: Tensor, log_norm: Tensor, hidden: Tensor, valid: Tensor, temperature: Tensor | float
) -> Tensor:
    """Weights [b, B] that the anchors of the other side (columns) give to this rank's features as their negatives (rows)."""
    shifted = (block - diagonal[None, :]) / temperature - log_norm[None, :]
    return torch.exp(shifted.masked_fill_(hidden | ~valid[:, None], -math.inf))


def _feature_gradient(own: Tensor, of_all: Tensor, positive: Tensor, other_side: Tensor, mine: slice) -> Tensor:
    return (own + of_all) @ other_side - positive[:, None] * other_side[mine]


def full_precision(tensor: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def with_gradient(value: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """Return `value` (0-d) as a tensor whose gradient by each tensor of `parts` is the one given beside it."""
    for tensor, gradient in parts:
        value = value + ((tensor - tensor.detach()) * gradient.to(tensor.dtype)).sum()
    return value


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


def global_loss(sums: Contrast, features: Pair, temperature: Tensor, *, negatives: Tensor, rho: float) -> Tensor:
    """The global contrastive loss from sums normalised by u: exact gradient, and the value that the paper's code gives."""
    tau = temperature.detach().to(sums.mean_log_norm.dtype)
    difference, log_u = sums.mean_difference.sum() / negatives, sums.mean_log_norm.sum()
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
    too (including the radius term rho * temperature). Returns (loss, new log_u [n, 2], detached).

    In a process group each rank passes its own samples; the gradients are scaled so that their mean over ranks, as DDP takes it,
    is the gradient of the global batch.
    The value of the loss is made for its gradient; the objective's own value is temperature * mean(log_u.sum(1)).
    """
    tau = temperature if isinstance(temperature, Tensor) else torch.tensor(float(temperature), device=features[0].device)
    valid = torch.ones(len(log_u), dtype=torch.bool, device=features[0].device)
    sums = contrast(
        features,
        reference,
        valid,
        full_precision(tau.detach()),
        lambda log_sum_exp, count: moving_average(log_u, log_sum_exp, count, gamma=gamma, eps=eps),
    )
    return global_loss(sums, features, tau, negatives=sums.valid - 1, rho=rho), sums.log_norm
