"""Variance of the pairwise losses, with and without the reference: whether a reference helps.

The excess risk of the steered model scales with Var(l - l_ref) where the ordinary one's scales with Var(l) (arXiv 2505.06699,
theorem 1). Both are taken on the same off-diagonal pairs, l(i, j) = s(i, j) - s(i, i), for image and for text anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drrho_clip import distributed
from drrho_clip.method.contrastive import Pair, full_precision


class Moments(NamedTuple):
    """Number of pairs, mean and sum of squared deviations, float64 of one shape; merges exactly (Chan, Golub, LeVeque, 1979)."""

    pairs: Tensor
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """Population variance."""
        return self.squares / self.pairs

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        count = self.pairs + other.pairs
        delta = other.mean - self.mean
        weight = other.pairs / count
        return Moments(count, self.mean + delta * weight, self.squares + other.squares + delta**2 * self.pairs * weight)


@torch.no_grad()
def pairwise_moments(features: Pair, valid: Tensor) -> Moments:
    """Moments [2] (image anchors, text anchors) of l(i, j) over all off-diagonal valid pairs of the global batch.

    features: (image [b, d], text [b, d]) of this rank, or what stands for them; pass `minus_reference` features for l - l_ref.
    valid: [b] bool. Every rank gets the same result.
    """
    everything = distributed.gather(torch.stack([full_precision(side.detach()) for side in features], 1))
    all_valid = distributed.gather(valid)
    kept = everything[all_valid]
    start = int(all_valid[: distributed.rank() * len(valid)].sum())
    own = kept[start : start + int(valid.sum())]
    diagonal = (own[:, 0] * own[:, 1]).sum(1, keepdim=True)
    mask = torch.ones(len(own), len(kept), dtype=torch.bool, device=kept.device)
    mask[torch.arange(len(own)), torch.arange(start, start + len(own))] = False
    rows = [_moments((own[:, k] @ kept[:, 1 - k].T - diagonal)[mask]) for k in range(2)]
    return _merge_ranks(torch.stack(rows))


def minus_reference(features: Pair, reference: Pair) -> Pair:
    """Features whose inner products are those of the target minus those of the reference: [b, d + d_ref] each."""
    (image, text), (image_ref, text_ref) = features, reference
    return torch.cat([image, -image_ref.to(image)], 1), torch.cat([text, text_ref.to(text)], 1)


def _moments(values: Tensor) -> Tensor:
    values = values.double()
    mean = values.mean() if len(values) else values.new_zeros(())
    return torch.stack([values.new_tensor(len(values)), mean, (values - mean).square().sum()])


def _merge_ranks(rows: Tensor) -> Moments:
    """rows [2, 3] of every rank -> one Moments [2]; ranks without pairs are left out."""
    merged: Moments | None = None
    for part in distributed.gather(rows[None]):
        moments = Moments(*part.unbind(1))
        if bool((moments.pairs > 0).all()):
            merged = moments if merged is None else merged.merge(moments)
    return merged if merged is not None else Moments(*rows.unbind(1))
