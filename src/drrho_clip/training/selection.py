"""From the super-batch that was read to the batch that is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from drrho_clip import distributed
from drrho_clip.data.loader import Batch, BatchMaker
from drrho_clip.errors import ConfigError
from drrho_clip.method.objective import SelectedContrastive
from drrho_clip.training.accumulation import Forward


def choose(
    objective: SelectedContrastive,
    make: BatchMaker,
    batch: Batch,
    towers: nn.Module,
    forward: Forward,
    *,
    size: int,
    seed: int,
    step: int,
) -> Batch:
    """Return this rank's part of the `size` samples that the objective takes from the global super-batch.

    A pure function of the model, seed and step: every rank trains on as many, in the order of their indices. The towers score as
    they would be used, without dropout. A rank reads its part again, since what it is to train on may have been scored by
    another; that is 1 - filter_ratio of what was read.
    """
    if size % distributed.world_size():
        raise ConfigError(f"{distributed.world_size()} processes cannot share a batch of {size}", fix="Set another batch_size.")
    share = size // distributed.world_size()
    assert batch.reference is not None
    with torch.inference_mode(), _evaluating(towers):
        pieces = zip(torch.split(batch.images, share), torch.split(batch.tokens, share), strict=True)
        parts = [forward(towers, *piece) for piece in pieces]
        features = (torch.cat([image for image, _ in parts]), torch.cat([text for _, text in parts]))
        reference = (batch.reference[:, 0], batch.reference[:, 1])
        generator = torch.Generator().manual_seed(seed * 2**32 + step)
        index = objective.select(features, reference, batch.index, batch.valid, size, generator)
    first = distributed.rank() * share
    return make.read(index[first : first + share].cpu().numpy(), step).to(batch.index.device)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
