"""Variance of the pairwise losses, with and without the reference: whether a reference helps.

The excess risk of the steered model scales with Var(l - l_ref) where the ordinary one's scales with Var(l) (arXiv 2505.06699,
theorem 1). Both are taken on the same off-diagonal pairs, l(i, j) = s(i, j) - s(i, i), for image and for text anchors.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from drrho_clip import distributed
from drrho_clip.method.contrastive import HIDDEN, GlobalBatch


class Moments(NamedTuple):
    """Number of pairs, mean and sum of squared deviations, float64 of one shape; merges exactly (Chan, Golub, LeVeque, 1979)."""

    pairs: Tensor
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """Population variance; 0 where there is no pair."""
        return self.squares / self.pairs.clamp_min(1)

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together; either may be empty."""
        count = self.pairs + other.pairs
        delta = other.mean - self.mean
        weight = other.pairs / count.clamp_min(1)
        return Moments(count, self.mean + delta * weight, self.squares + other.squares + delta**2 * self.pairs * weight)


@torch.no_grad()
def pairwise_moments(batch: GlobalBatch, *, steered: bool = False) -> Moments:
    """Moments [2] (image anchors, text anchors) of l(i, j), or l - l_ref, over all off-diagonal valid pairs of the global batch.

    Every rank gets the same result. Differences are formed for some rows at a time, as those of the objectives.
    """
    own_pairs = batch.true_pairs(steered=steered)[batch.mine]
    similarity = batch.steered if steered else batch.similarities

    def of_chunks(side: int) -> Iterator[Moments]:
        for rows in batch.chunks():
            block = batch.hide(similarity(side, rows).sub_(own_pairs[rows, None]), rows)
            yield _moments(block[batch.own_valid[rows]])

    sides = [reduce(Moments.merge, of_chunks(side)) for side in range(2)]
    own = torch.stack([torch.stack(moments) for moments in sides], 1)  # [3, 2]
    return reduce(Moments.merge, (Moments(*rank.unbind()) for rank in distributed.gather(own[None])))


def _moments(block: Tensor) -> Moments:
    """0-d moments of what is not HIDDEN in a block."""
    shown = block > HIDDEN / 2
    values = block.double()
    pairs = shown.sum().double()
    mean = values.masked_fill(~shown, 0).sum() / pairs.clamp_min(1)
    return Moments(pairs, mean, (values - mean).masked_fill_(~shown, 0).square().sum())
