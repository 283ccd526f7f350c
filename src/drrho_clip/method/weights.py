"""The last weight of every sample: what the objective let it count, for galleries and data curation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drrho_clip import distributed


class SampleWeights(nn.Module):
    """Weights [samples, 2] (image anchor, text anchor) of the last visit, and the step of that visit (-1 = never)."""

    last: Tensor
    step: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("last", torch.full((samples, 2), torch.nan))
        self.register_buffer("step", torch.full((samples,), -1, dtype=torch.int64))

    @torch.no_grad()
    def record(self, index: Tensor, weights: Tensor, valid: Tensor, step: int) -> None:
        """Keep the weights [b, 2] of this rank's samples."""
        self.last[index[valid]] = weights[valid].to(self.last.dtype)
        self.step[index[valid]] = step

    @torch.no_grad()
    def merge_ranks(self) -> None:
        """Take every sample's newest weight from whichever rank saw it last; all ranks end with the same state."""
        steps, lasts = distributed.gather(self.step[None]), distributed.gather(self.last[None])
        newest = steps.argmax(0)
        rows = torch.arange(len(newest), device=newest.device)
        self.step.copy_(steps[newest, rows])
        self.last.copy_(lasts[newest, rows])
