"""Choosing the batch to train on out of a larger one, by what the model has still to learn of it according to a reference.

RHO (Mindermann et al., arXiv 2206.07137) takes the samples of the largest loss minus the reference's. JEST (Evans et al., arXiv
2406.17711, algorithm 1) grows the batch in chunks: a sample's learnability, loss minus reference loss, is that of its own pair
and of its pairs with the samples chosen before. The losses of pairs are sigmoid ones, as there; their bias, which a CLIP model
does not have, is the one at which equal similarities give each text the probability 1 / S of being an image's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from drrho_clip.method.contrastive import CHUNK_ELEMENTS, Pair


class Scored(NamedTuple):
    """One model's features of a super-batch of S samples and the temperature that belongs to them."""

    features: Pair  # (image [S, d], text [S, d])
    temperature: float

    def logits(self, side: int, rows: Tensor | slice) -> Tensor:
        """Similarities / temperature [n, S] of some samples' images (side 0) or texts with all of the other side."""
        return self.features[side][rows] @ self.features[1 - side].T / self.temperature

    def own_logits(self) -> Tensor:
        """Those of the true pairs, [S]."""
        return (self.features[0] * self.features[1]).sum(1) / self.temperature

    def losses(self, valid: Tensor) -> Tensor:
        """Contrastive loss [S] of every sample against the valid ones, mean of image and text side."""
        own = self.own_logits()
        sums = [
            torch.cat(
                [self.logits(side, rows).masked_fill_(~valid, -math.inf).logsumexp(1) for rows in _rows(len(own), len(own))]
            )
            for side in range(2)
        ]
        return (sums[0] + sums[1]) / 2 - own

    def pair_losses(self, side: int, rows: Tensor) -> Tensor:
        """Sigmoid loss [n, S] of the pairs of some samples with all: to be told a match on the diagonal, and none elsewhere."""
        logits = self.logits(side, rows) - math.log(max(1, len(self.features[0]) - 1))
        sign = torch.ones_like(logits)
        sign[torch.arange(len(rows)), rows] = -1
        return softplus(sign * logits)


@torch.no_grad()
def rho_top_k(learner: Scored, reference: Scored, valid: Tensor, size: int) -> Tensor:
    """Positions [size], ascending, of the samples with the largest RHO loss."""
    excess = learner.losses(valid) - reference.losses(valid)
    return excess.masked_fill(~valid, -math.inf).topk(size).indices.sort().values


@torch.no_grad()
def jest(
    learner: Scored, reference: Scored, valid: Tensor, size: int, *, chunks: int, generator: torch.Generator | None
) -> Tensor:
    """Positions [size], ascending, chosen in `chunks` steps: drawn by softmax(learnability), or the largest without a generator.

    Drawing without replacement is taking the largest after adding Gumbel noise (Kool et al., arXiv 1903.06059).
    """
    bias = math.log(max(1, len(valid) - 1))
    learnability = softplus(bias - learner.own_logits()) - softplus(bias - reference.own_logits())
    learnability = learnability.masked_fill(~valid, -math.inf)
    chosen = []
    for count in _chunk_sizes(size, chunks):
        scores = learnability
        if generator is not None:
            uniform = torch.rand(len(valid), dtype=torch.float64, generator=generator).to(scores)
            scores = scores - torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
        new = scores.topk(count).indices
        chosen.append(new)
        for side in range(2):
            for rows in _rows(len(valid), len(new)):
                pairs = learner.pair_losses(side, new[rows]) - reference.pair_losses(side, new[rows])
                learnability = learnability + pairs.sum(0)
        learnability = learnability.index_fill(0, new, -math.inf)
    return torch.cat(chosen).sort().values


def _chunk_sizes(size: int, chunks: int) -> list[int]:
    """`size` in at most `chunks` parts, as equal as they can be."""
    chunks = min(chunks, size)
    return [size * (i + 1) // chunks - size * i // chunks for i in range(chunks)]


def _rows(samples: int, rows: int) -> Iterator[slice]:
    """Some of `rows` rows at a time, each of `samples` numbers."""
    size = max(1, CHUNK_ELEMENTS // samples)
    for first in range(0, rows, size):
        yield slice(first, first + size)
