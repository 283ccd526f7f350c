"""The contrastive sums behind every objective, over the global batch, written once and symmetric in image and text.

With s(i, j) = <image_i, text_j> (minus the reference's, where it steers) and d(i, j) = (s(i, j) - s(i, i)) / temperature, every
objective here has a gradient of the form

    constant * sum_i sum_side sum_{j != i} weight(d(i, j), normaliser_i) * grad (s(i, j) - s(i, i))

and differs in its rule alone, see `Rule`. Once the normalisers of all anchors are known, a rank can form the gradient of its own
features from (own anchors, all negatives) and (all anchors, own features as negatives); so only features and a few scalars are
gathered and no feature gradient is ever reduced (FastCLIP, arXiv 2407.01445, section 4).

Differences are formed for some rows at a time, for the normalisers and again for the gradient; they are kept in between where all
of them are few. So memory is bounded: it does not grow with batch x global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from drrho_clip import distributed

Pair = tuple[Tensor, Tensor]

CHUNK_ELEMENTS = 2**19  # differences worked on at a time, 2 MB in float32
KEPT_ELEMENTS = 2**23  # differences kept for the gradient, 32 MB in float32
HIDDEN = -1e30  # the difference where there is no negative: its weight is 0, and 0 times it, too


class Rule(Protocol):
    """How the differences d of an anchor become the weights of its negatives."""

    def summary(self, shifted: Tensor) -> Tensor:
        """What has to be known of the rows d [c, B] (HIDDEN where there is no negative): [c]."""

    def normaliser(self, summary: Tensor, count: Tensor) -> Tensor:
        """What the weights need of each anchor, [b, 2], from its summaries [b, 2] and the number of valid samples."""

    def weight(self, shifted: Tensor, normaliser: Tensor) -> Tensor:
        """Weights [c, B] of the differences, given a normaliser that broadcasts to them; 0 where the difference is HIDDEN.

        The same number may be added to a difference and to its normaliser.
        """


@dataclass(frozen=True)
class Exponential:
    """weight = exp(d - normaliser), where the normaliser is made of the log of the sum of exp(d)."""

    make_normaliser: Callable[[Tensor, Tensor], Tensor]  # (log-sum-exp [b, 2], number of valid samples) -> [b, 2]

    def summary(self, shifted: Tensor) -> Tensor:
        """Log-sum-exp of every row."""
        return shifted.logsumexp(1)

    def normaliser(self, summary: Tensor, count: Tensor) -> Tensor:
        """As the objective says."""
        return self.make_normaliser(summary, count)

    def weight(self, shifted: Tensor, normaliser: Tensor) -> Tensor:
        """exp(d - normaliser)."""
        return (shifted - normaliser).exp_()


@dataclass(frozen=True)
class Hardest:
    """weight = 1 / k for the k negatives with the largest d, 0 for the others: CVaR over the negatives of each anchor.

    The normaliser lies half-way between the k-th and the next d, so that every rank draws the same line whatever the rounding;
    of negatives that are equal there, none or all count.
    """

    k: int

    def summary(self, shifted: Tensor) -> Tensor:
        """The line between the k-th largest and the next."""
        ends = shifted.topk(self.k + 1, dim=1).values[:, -2:]
        return torch.where(ends[:, 1] <= HIDDEN / 2, ends[:, 0] - 1, ends.mean(1))  # no negative is left beyond the k

    def normaliser(self, summary: Tensor, count: Tensor) -> Tensor:
        """The line itself."""
        return summary

    def weight(self, shifted: Tensor, normaliser: Tensor) -> Tensor:
        """1 / k above the line."""
        return (shifted > normaliser).to(shifted.dtype) / self.k


class GlobalBatch:
    """Features of the global batch, without gradient, and which of them are this rank's."""

    def __init__(self, features: Pair, reference: Pair | None, valid: Tensor) -> None:
        """Gather (image [b, d], text [b, d]) of every rank, the reference's in the precision that they have, and valid [b]."""
        self.own = (full_precision(features[0].detach()), full_precision(features[1].detach()))
        self.everything = _gather_pair(self.own)
        self.own_reference = self.reference = None
        if reference is not None:
            gathered, dtype = _gather_pair(reference), self.own[0].dtype
            self.own_reference = (reference[0].to(dtype), reference[1].to(dtype))
            self.reference = (gathered[0].to(dtype), gathered[1].to(dtype))
        self.own_valid, self.valid = valid, distributed.gather(valid)
        self.count = self.valid.sum()
        self.start = distributed.rank() * len(valid)

    @property
    def mine(self) -> slice:
        """This rank's part of the global batch."""
        return slice(self.start, self.start + len(self.own_valid))

    def chunks(self) -> Iterator[slice]:
        """This rank's samples, some at a time."""
        size = max(1, CHUNK_ELEMENTS // len(self.valid))
        for first in range(0, len(self.own_valid), size):
            yield slice(first, min(first + size, len(self.own_valid)))

    @property
    def share(self) -> Tensor:
        """What makes sums over anchors their mean, in gradients whose mean over ranks DDP takes."""
        return distributed.world_size() / self.count

    def similarities(self, side: int, rows: slice) -> Tensor:
        """Similarities [c, B] of own features of one side (0 = image) with all of the other."""
        return self.own[side][rows] @ self.everything[1 - side].T

    def reference_similarities(self, side: int, rows: slice) -> Tensor:
        """The same of the reference."""
        assert self.own_reference is not None
        assert self.reference is not None
        return self.own_reference[side][rows] @ self.reference[1 - side].T

    def steered(self, side: int, rows: slice) -> Tensor:
        """Similarities minus the reference's."""
        assert self.own_reference is not None
        assert self.reference is not None
        return self.similarities(side, rows).addmm_(self.own_reference[side][rows], self.reference[1 - side].T, alpha=-1)

    def true_pairs(self, *, steered: bool) -> Tensor:
        """Similarity [B] of every image with its own text, minus the reference's where it steers."""
        similarity = (self.everything[0] * self.everything[1]).sum(1)
        if steered:
            assert self.reference is not None
            similarity = similarity - (self.reference[0] * self.reference[1]).sum(1)
        return similarity

    def hide(self, differences: Tensor, rows: slice) -> Tensor:
        """Put HIDDEN where no anchor takes a negative, itself and what is not valid."""
        own = torch.arange(rows.start, rows.stop, device=differences.device)
        differences.masked_fill_(~self.valid, HIDDEN)[own - rows.start, own + self.start] = HIDDEN
        return differences


class Contrast(NamedTuple):
    """The sums of one global batch: means over its valid anchors, and what belongs to the anchors of this rank."""

    normaliser: Tensor  # [b, 2] of this rank's anchors (image, text)
    all_normalisers: Tensor  # [B, 2] of all anchors
    mean_normaliser: Tensor  # [2] over all valid anchors
    mean_difference: Tensor  # [2] over all valid anchors, of sum_{j != i} weight(i, j) * (s(i, j) - s(i, i))
    difference: Tensor  # [b, 2] the sum of weight(i, j) * (s(i, j) - s(i, i)) of this rank's anchors
    mean_effective_size: Tensor  # [2] over all valid anchors, of 1 / sum of squared normalised weights: negatives that count
    gradient: Pair  # of sum(mean_difference) by this rank's features, weights held constant; times the world size, for DDP's mean


@torch.no_grad()
def contrast(batch: GlobalBatch, temperature: Tensor | float, rule: Rule, *, steered: bool) -> Contrast:
    """Form the contrastive sums of the global batch; `steered` subtracts the reference's similarities."""
    similarity = batch.steered if steered else batch.similarities
    pairs = batch.true_pairs(steered=steered)
    own_pairs = pairs[batch.mine]

    def differences_of(side: int, rows: slice) -> Tensor:
        return batch.hide(similarity(side, rows).sub_(own_pairs[rows, None]).div_(temperature), rows)

    keep = 2 * len(own_pairs) * len(pairs) <= KEPT_ELEMENTS
    kept: list[Tensor] = []
    summaries: list[list[Tensor]] = [[], []]
    for side in range(2):
        for rows in batch.chunks():
            block = differences_of(side, rows)
            summaries[side].append(rule.summary(block))
            if keep:
                kept.append(block)
    normaliser = rule.normaliser(torch.stack([torch.cat(parts) for parts in summaries], 1), batch.count)
    all_normalisers = distributed.gather(normaliser)
    scaled = pairs / temperature
    sums: list[list[Tensor]] = []
    for side in range(2):
        parts = []
        for rows in batch.chunks():
            block = kept.pop(0) if keep else differences_of(side, rows)
            valid = batch.own_valid[rows].to(block.dtype)
            own = rule.weight(block, normaliser[rows, side, None])
            products = [own.sum(1), own.square().sum(1), temperature * torch.linalg.vecdot(own, block)]
            # s(i, j) - s(j, j) instead of s(i, j) - s(i, i): anchor j's difference, of which this sample is the negative
            of_all = rule.weight(block.add_(scaled[batch.mine][rows, None]), all_normalisers[:, 1 - side] + scaled)
            gradient = own.add_(of_all) @ batch.everything[1 - side]
            parts.append([*(product * valid for product in products), gradient * valid[:, None]])
        sums.append([torch.cat(part) for part in zip(*parts, strict=True)])
    weight, squares, differences = (torch.stack([sums[0][i], sums[1][i]], 1) for i in range(3))
    total = weight.sum(1, keepdim=True)
    effective = weight.square() / squares.clamp_min(1e-30)
    mean_difference, mean_effective_size = distributed.sum_over_ranks(torch.stack([differences, effective]).sum(1)) / batch.count
    image, text = ((sums[k][3] - total * batch.everything[1 - k][batch.mine]) * batch.share for k in range(2))
    return Contrast(
        normaliser,
        all_normalisers,
        all_normalisers.masked_fill(~batch.valid[:, None], 0).sum(0) / batch.count,
        mean_difference,
        differences,
        mean_effective_size,
        (image, text),
    )


def _gather_pair(pair: Pair) -> Pair:
    stacked = distributed.gather(torch.stack(pair, 1))
    return stacked[:, 0], stacked[:, 1]


def full_precision(tensor: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def with_gradient(value: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """Return `value` (0-d) as a tensor whose gradient by each tensor of `parts` is the one given beside it."""
    for tensor, gradient in parts:
        value = value + ((tensor - tensor.detach()) * gradient.to(tensor.dtype)).sum()
    return value
