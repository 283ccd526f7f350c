"""From the super-batch that was read to the batch that is trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from drrho_clip import distributed
from drrho_clip.data.loader import Batch, BatchMaker
from drrho_clip.errors import ConfigError
from drrho_clip.method.contrastive import Pair
from drrho_clip.method.objective import SelectedContrastive


def choose(
    objective: SelectedContrastive,
    make: BatchMaker,
    batch: Batch,
    forward: Callable[[Tensor, Tensor], Pair],
    *,
    size: int,
    seed: int,
    step: int,
) -> Batch:
    """Return this rank's part of the `size` samples that the objective takes from the global super-batch.

    A pure function of the model, seed and step: every rank trains on as many, in the order of their indices. A rank reads its
    part again, since what it is to train on may have been scored by another; that is 1 - filter_ratio of what was read.
    """
    if size % distributed.world_size():
        raise ConfigError(f"{distributed.world_size()} processes cannot share a batch of {size}", fix="Set another batch_size.")
    share = size // distributed.world_size()
    assert batch.reference is not None
    with torch.inference_mode():
        parts = [forward(*part) for part in zip(torch.split(batch.images, share), torch.split(batch.tokens, share), strict=True)]
        features = (torch.cat([image for image, _ in parts]), torch.cat([text for _, text in parts]))
        reference = (batch.reference[:, 0], batch.reference[:, 1])
        generator = torch.Generator().manual_seed(seed * 2**32 + step)
        index = objective.select(features, reference, batch.index, batch.valid, size, generator)
    first = distributed.rank() * share
    return make.read(index[first : first + share].cpu().numpy(), step).to(batch.index.device)
