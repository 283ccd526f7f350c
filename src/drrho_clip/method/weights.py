"""The mean weight of every sample: what the objective let it count, for galleries and data curation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drrho_clip import distributed


class SampleWeights(nn.Module):
    """Sums of the weights [samples, 2] (image anchor, text anchor) over a sample's visits, and their number [samples].

    A single visit says little: its weight goes with the chance of the batch's negatives. Every rank holds the same state.
    """

    total: Tensor
    visits: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(samples, 2))
        self.register_buffer("visits", torch.zeros(samples, dtype=torch.int64))

    @torch.no_grad()
    def record(self, index: Tensor, weights: Tensor, valid: Tensor) -> None:
        """Add the weights [b, 2] of the global batch, of which every rank passes its own part."""
        index, weights, valid = (distributed.gather(value) for value in (index, weights, valid))
        self.total.index_add_(0, index[valid], weights[valid].to(self.total.dtype))
        self.visits.index_add_(0, index[valid], torch.ones_like(index[valid]))

    def mean(self) -> tuple[Tensor, Tensor]:
        """Return (index [n], weight [n, 2]) of the samples that were visited, on the CPU."""
        index = self.visits.nonzero()[:, 0]
        return index.cpu(), (self.total[index] / self.visits[index, None]).cpu()
