"""What steering by a reference needs to be set to, read off the reference's own features before anything is trained.

The published temperature of 0.01 and eps of 1e-4 (arXiv 2505.06699) belong to the similarities of one reference and to batches of
5,120. What carries over to other data, batches and references is what they do there:

- The temperature decides how many negatives share the gradient of an anchor. Too low, and the one hardest negative of a small
  batch gets all of it; too high, and hard negatives count no more than others. So: the temperature at which the weights of an
  anchor's negatives, were the model as good as the reference, have an effective number of `NEGATIVES`.
- eps lets an anchor drop out: its weight is u / (eps + u), and u falls once the model tells the pair better from its negatives
  than the reference does, which for a wrong pair means to learn it by heart. So: the anchor is down to half of its weight where
  the model is ahead of the reference by the spread of the reference's similarities.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from drrho_clip.errors import DataError
from drrho_clip.method.contrastive import Pair, full_precision

NEGATIVES = 32.0
LARGEST_SHARE = 1 / 8  # of the batch's negatives, where a batch is so small that 32 would be most of it
TEMPERATURES = (0.002, 1.0)
ANCHORS = 512
BEST_PAIRS = 0.9


class Recommendation(NamedTuple):
    """Settings for one reference, and what they do."""

    temperature: float
    eps: float
    effective_negatives: float
    """1 / sum p^2 over an anchor's negatives, mean over anchors and sides, were the model as good as the reference."""
    dropped: float
    """Share of the pairs that would keep less than half of their weight in a model that has learnt every pair by heart."""


@torch.no_grad()
def recommend(reference: Tensor, batch_size: int) -> Recommendation:
    """Temperature and eps for a batch of `batch_size`, from features [n, 2, dim] (image, text; unit norm) of random pairs.

    n should be at least `batch_size`: the batch is taken as n pairs where it is not. DataError: fewer than 16 pairs.
    """
    if len(reference) < 16:
        raise DataError(f"{len(reference)} pairs are too few to choose a temperature by", fix="Set temperature and eps.")
    reference = full_precision(reference)
    size = min(batch_size, len(reference))
    rows = negative_similarities((reference[:size, 0], reference[:size, 1]))
    wanted = min(NEGATIVES, LARGEST_SHARE * (size - 1))
    temperature = _temperature(rows, wanted)
    finite = rows.isfinite()
    mean = rows.masked_fill(~finite, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    spread = ((rows - mean).masked_fill(~finite, 0).square().sum(1) / finite.sum(1)).sqrt().mean().item()
    own = (reference[:, 0] * reference[:, 1]).sum(1)
    dropped = (own < own.quantile(BEST_PAIRS) - spread).double().mean().item()
    return Recommendation(temperature, math.exp(-spread / temperature), effective_negatives(rows, temperature), dropped)


def negative_similarities(features: Pair, steered_by: Pair | None = None) -> Tensor:
    """Similarities of up to 512 anchors of each side with all negatives [2 a, n], minus those of `steered_by`; itself -inf."""
    count = min(ANCHORS, len(features[0]))
    sides = []
    for side in range(2):
        similarity = features[side][:count] @ features[1 - side].T
        if steered_by is not None:
            similarity = similarity - steered_by[side][:count] @ steered_by[1 - side].T
        sides.append(similarity)
    rows = torch.cat(sides)
    itself = torch.arange(count, device=rows.device).repeat(2)
    rows[torch.arange(2 * count, device=rows.device), itself] = -math.inf
    return rows


def effective_negatives(rows: Tensor, temperature: float) -> float:
    """Mean over the rows [a, n] of 1 / sum p^2, where p is the softmax at a temperature."""
    return (1 / (rows / temperature).softmax(1).square().sum(1)).mean().item()


def _temperature(rows: Tensor, wanted: float) -> float:
    """The temperature of that effective number, which grows with it; bisection of its logarithm, to 0.1%."""
    low, high = (math.log(bound) for bound in TEMPERATURES)
    while high - low > 1e-3:
        middle = (low + high) / 2
        if effective_negatives(rows, math.exp(middle)) < wanted:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


@torch.no_grad()
def information(features: Tensor) -> float:
    """Bits that a model knows of which caption belongs to which picture, among n pairs: float [n, 2, dim], unit norm.

    log2(n) less the cross-entropy of the pairs, both ways, at the temperature that suits the model best: a lower bound of the
    mutual information of both (van den Oord et al., arXiv 1807.03748). 0 = no better than chance; at most log2(n).
    """
    features = full_precision(features)
    n = len(features)
    similarity = features[:, 0] @ features[:, 1].T
    own = similarity.diagonal()
    losses: list[float] = []
    for temperature in torch.logspace(math.log10(TEMPERATURES[0]), math.log10(TEMPERATURES[1]), 28).tolist():
        scaled = similarity / temperature
        losses.append(((scaled.logsumexp(0) + scaled.logsumexp(1)) / 2 - own / temperature).mean().item())
    bits: float = (math.log(n) - min(losses)) / math.log(2)
    return max(0.0, bits)
