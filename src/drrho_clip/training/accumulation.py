"""One large batch in several passes through the model: what the loss sees is the whole batch, what memory holds is a part.

Contrastive losses do not add up over parts of a batch. So all features are computed first, without what backward would need; the
loss of the whole batch gives their gradients; then each part goes through the model again and takes its own (GradCache,
arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drrho_clip.method.contrastive import Pair
from drrho_clip.method.objective import ObjectiveResult

Forward = Callable[[nn.Module, Tensor, Tensor], Pair]  # (towers, images, tokens) -> features


def forward_backward(
    towers: nn.Module, images: Tensor, tokens: Tensor, forward: Forward, loss_of: Callable[[Pair], ObjectiveResult], parts: int
) -> tuple[Pair, ObjectiveResult]:
    """Leave the gradient of the loss in the parameters and return (features [b, d] twice, result).

    With `parts` > 1 the model runs twice over the batch, with the same random numbers; processes synchronise in the last part.
    """
    if parts == 1:
        features = forward(towers, images, tokens)
        result = loss_of(features)
        result.loss.backward()  # type: ignore[no-untyped-call]
        return features, result
    pieces = list(zip(images.chunk(parts), tokens.chunk(parts), strict=True))
    inner = towers.module if isinstance(towers, DistributedDataParallel) else towers
    states, cached = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_random_state(images.device))
            cached.append(forward(inner, *piece))
    image, text = (torch.cat(side).requires_grad_() for side in zip(*cached, strict=True))
    result = loss_of((image, text))
    result.loss.backward()  # type: ignore[no-untyped-call]
    gradients = zip(*(_gradient(side).chunk(parts) for side in (image, text)), strict=True)
    for number, (piece, state, gradient) in enumerate(zip(pieces, states, gradients, strict=True), start=1):
        _set_random_state(images.device, state)
        unsynchronised = isinstance(towers, DistributedDataParallel) and number < len(pieces)
        with towers.no_sync() if unsynchronised else nullcontext():  # type: ignore[operator]
            torch.autograd.backward(forward(towers, *piece), gradient)
    return (image, text), result


def _gradient(side: Tensor) -> Tensor:
    assert side.grad is not None
    return side.grad


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
