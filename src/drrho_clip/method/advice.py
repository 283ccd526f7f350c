"""What steering by a reference needs to be set to, read off the reference's own features before anything is trained.

The published temperature of 0.01 and eps of 1e-4 (arXiv 2505.06699) belong to the similarities of one reference and to batches of
5,120. What carries over to other data, batches and references is what they do there:

- The temperature decides how many negatives share the gradient of an anchor. The loss is the logarithm of a mean of
  exp(difference / temperature), which a batch of B can stand for only while no single one rules it. Were the differences
  normally distributed with standard deviation sigma, that ends at sigma / sqrt(2 ln B), critical in the random energy model
  (Derrida 1981): below it the hardest negative gets the weight, far above it hard ones count no more than others. So: `MARGIN`
  times that, with the sigma of the reference's similarities among an anchor's negatives. A steered model is left with the
  differences from its reference, which are smaller, so that many negatives share in the end.
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

MARGIN = 1.25  # times the critical temperature; the published 0.01 is that for a sigma of 0.033 in batches of 5,120
TEMPERATURES = (0.002, 1.0)
ANCHORS = 512
BEST_PAIRS = 0.9


class Recommendation(NamedTuple):
    """Settings for one reference, and what they do."""

    temperature: float
    eps: float
    spread: float
    """Standard deviation of the reference's similarities among an anchor's negatives: what both follow from."""
    effective_negatives: float
    """1 / sum p^2 over an anchor's negatives, mean over anchors and sides, were the model as good as the reference."""
    dropped: float
    """Share of the pairs that would keep less than half of their weight in a model that has learnt every pair by heart."""

    def why(self, name: str, batch_size: int) -> str:
        """One sentence on how `temperature` or `eps` was found."""
        spread, temperature = f"{self.spread:.3g}", f"{self.temperature:.3g}"
        if name == "eps":
            half = "a pair is down to half of its weight where the model is ahead of the reference by that spread"
            return f"eps {self.eps:.3g} = exp(-{spread} / {temperature}): {half}"
        bounds = f", kept within {TEMPERATURES[0]} .. {TEMPERATURES[1]}" if self.temperature in TEMPERATURES else ""
        rule = f"temperature {temperature} = {MARGIN} x {spread} / sqrt(2 ln {batch_size}){bounds}"
        return (
            f"{rule}: {spread} is the spread of the reference's similarities among an anchor's negatives, none of which may rule"
        )


@torch.no_grad()
def recommend(reference: Tensor, batch_size: int, *, temperature: float | None = None) -> Recommendation:
    """Temperature and eps for a batch of `batch_size`, from features [n, 2, dim] (image, text; unit norm) of random pairs.

    A `temperature` that is given stays, and eps belongs to it. Where n is less than `batch_size`, the effective number is that of
    n pairs. DataError: fewer than 16 pairs.
    """
    if len(reference) < 16:
        raise DataError(f"{len(reference)} pairs are too few to choose a temperature by", fix="Set temperature and eps.")
    reference = full_precision(reference)
    spread = _spread(negative_similarities((reference[:, 0], reference[:, 1])))
    if temperature is None:
        temperature = min(max(MARGIN * spread / math.sqrt(2 * math.log(batch_size)), TEMPERATURES[0]), TEMPERATURES[1])
    batch = reference[:batch_size]
    rows = negative_similarities((batch[:, 0], batch[:, 1]))
    own = (reference[:, 0] * reference[:, 1]).sum(1)
    dropped = (own < own.quantile(BEST_PAIRS) - spread).double().mean().item()
    return Recommendation(temperature, math.exp(-spread / temperature), spread, effective_negatives(rows, temperature), dropped)


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


def _spread(rows: Tensor) -> float:
    """Mean over the rows [a, n] of the standard deviation of what is finite in them."""
    finite = rows.isfinite()
    count = finite.sum(1, keepdim=True)
    mean = rows.masked_fill(~finite, 0).sum(1, keepdim=True) / count
    deviation = (rows - mean).masked_fill(~finite, 0)
    return (deviation.square().sum(1) / count[:, 0]).sqrt().mean().item()


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
