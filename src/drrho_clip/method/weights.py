"""What the objective let every sample count, and what its loss was: for galleries and data curation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drrho_clip import distributed
from drrho_clip.method.rows import Home, Rows

WIDTH = 4  # numbers of a sample


class SampleWeights(nn.Module):
    """Of every sample the sums of its weights (image anchor, text anchor), its visits and the loss at the last one.

    A single visit says little of a weight: it goes with the chance of the batch's negatives. 16 bytes a sample, kept as u is: on
    every device, or once per node, where the first process writes.
    """

    def __init__(self, samples: int, *, home: Home = "auto", folder: str = "/dev/shm") -> None:
        super().__init__()
        self.rows = Rows(samples, WIDTH, unseen=0.0, what="record of the weights", home=home, folder=folder)

    @torch.no_grad()
    def record(self, index: Tensor, weights: Tensor, losses: Tensor, valid: Tensor) -> None:
        """Add the weights and losses [b, 2] of the global batch, of which every rank passes its own part."""
        values = torch.cat([weights, torch.ones_like(weights[:, :1]), losses.mean(1, keepdim=True)], 1)
        index, values, valid = (distributed.gather(value) for value in (index, values, valid))
        if self.rows.shared and not distributed.leads_node():
            return
        index, values = index[valid], values[valid]
        sums = self.rows.get(index)[:, :3] + values[:, :3]
        self.rows.put(index, torch.cat([sums, values[:, 3:]], 1))

    def visited(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the samples start to stop - 1 that were visited, on the CPU: (index [n], mean weight [n, 2], loss [n])."""
        rows = self.rows.read_rows(start, stop)
        index = rows[:, 2].nonzero()[:, 0]
        rows = rows[index]
        return index + start, rows[:, :2] / rows[:, 2:3], rows[:, 3]
