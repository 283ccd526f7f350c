"""Var(l) and Var(l - l_ref) of a run: of each logged step, and of all logged steps of its last tenth together."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from drrho_clip.data.loader import Batch
from drrho_clip.method.contrastive import GlobalBatch, Pair
from drrho_clip.method.variance import Moments, pairwise_moments

State = Mapping[str, list[list[float]]]


class Variances:
    """Keeps the exact moments of the steps that it measured, the same on every rank; `state` goes into checkpoints."""

    def __init__(self, steps: int) -> None:
        """`steps`: those of the whole run, its last one is to be measured."""
        self.steps = steps
        self._late: dict[str, Moments] = {}

    def measure(self, step: int, features: Pair, batch: Batch) -> dict[str, float]:
        """The variances of this step, counted from 1, by record key; `features` are this rank's ([b, d] twice)."""
        reference = None if batch.reference is None else (batch.reference[:, 0], batch.reference[:, 1])
        pairs = GlobalBatch(features, reference, batch.valid)
        found = {
            of: pairwise_moments(pairs, steered=of == "rho") for of in (("target",) if reference is None else ("target", "rho"))
        }
        if 10 * step > 9 * self.steps:
            self._late = {of: self._late[of].merge(new) if of in self._late else new for of, new in found.items()}
        return _named(found)

    def final(self) -> dict[str, float]:
        """The variances over all pairs that were measured in the last tenth of the run, by record key."""
        return _named(self._late)

    def state(self) -> State:
        """Plain numbers by kind: [pairs, mean, squares], each of (image, text)."""
        return {of: torch.stack(moments).tolist() for of, moments in self._late.items()}

    def restore(self, state: State, device: torch.device) -> None:
        """Go on from a `state`."""
        rows = {of: torch.tensor(values, dtype=torch.float64, device=device) for of, values in state.items()}
        self._late = {of: Moments(*values.unbind()) for of, values in rows.items()}


def _named(moments: Mapping[str, Moments]) -> dict[str, float]:
    return {
        f"pairwise_loss_variance.{side}.{of}": float(value)
        for of, found in moments.items()
        for side, value in zip(("image", "text"), found.variance, strict=True)
    }
