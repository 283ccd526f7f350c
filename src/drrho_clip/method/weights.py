"""What the objective let every sample count, and what its loss was: for galleries and data curation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drrho_clip import distributed


class SampleWeights(nn.Module):
    """Of every sample the sums of its weights [samples, 2] (image anchor, text anchor), its visits and the loss at the last one.

    A single visit says little of a weight: it goes with the chance of the batch's negatives. Every rank holds the same state.
    """

    total: Tensor
    visits: Tensor
    loss: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(samples, 2))
        self.register_buffer("visits", torch.zeros(samples, dtype=torch.int32))
        self.register_buffer("loss", torch.zeros(samples))

    @torch.no_grad()
    def record(self, index: Tensor, weights: Tensor, losses: Tensor, valid: Tensor) -> None:
        """Add the weights and losses [b, 2] of the global batch, of which every rank passes its own part."""
        values = torch.cat([weights, losses.mean(1, keepdim=True)], 1)
        index, values, valid = (distributed.gather(value) for value in (index, values, valid))
        index, values = index[valid], values[valid].to(self.total.dtype)
        self.total.index_add_(0, index, values[:, :2])
        self.visits.index_add_(0, index, torch.ones_like(index, dtype=torch.int32))
        self.loss[index] = values[:, 2]

    def visited(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (index [n], mean weight [n, 2], loss [n]) of the samples that were visited, on the CPU."""
        index = self.visits.nonzero()[:, 0]
        return index.cpu(), (self.total[index] / self.visits[index, None]).cpu(), self.loss[index].cpu()
