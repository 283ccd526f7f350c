"""Objectives as the trainer uses them: a module with the state of its method (u, temperature) that turns features into a loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from drrho_clip import distributed
from drrho_clip.method.config import GlobalConfig, MethodConfig
from drrho_clip.method.contrastive import Contrast, Pair, contrast, global_loss, moving_average, with_gradient


class ObjectiveResult(NamedTuple):
    """What a step learns from its batch; only `loss` has a gradient."""

    loss: Tensor  # 0-d, for backward: its value need not mean anything
    value: Tensor  # 0-d, the value of the objective over the global batch
    parts: dict[str, Tensor]  # named parts of the value
    weights: Tensor  # [b, 2] the share of its gradient that each anchor keeps (image, text), from 0 to 1 = all of it
    effective_size: Tensor  # [2] mean effective number of negatives of the anchors of this rank


class Objective(nn.Module):
    """Base of the objectives: the temperature, kept as log(1 / temperature) where it is learnt, as CLIP does.

    forward(features (image [b, d], text [b, d]), reference or None, index [b], valid [b], epoch) -> ObjectiveResult; every rank
    calls it with its own samples. The gradient of the temperature is that of the global batch on every rank: nothing to reduce.
    """

    def __init__(self, config: MethodConfig) -> None:
        super().__init__()
        self.config = config
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), requires_grad=config.learn_temperature)

    @property
    def temperature(self) -> Tensor:
        """The temperature, 0-d float32."""
        return torch.exp(-self.log_scale)

    def gamma(self, epoch: int) -> float | None:
        """Weight of the batch in u at this epoch; None where the method has no u."""
        return None

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep a learnt temperature within its bounds; call after every optimiser step."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(-math.log(self.config.max_temperature), -math.log(self.config.min_temperature))

    def forward(self, features: Pair, reference: Pair | None, index: Tensor, valid: Tensor, epoch: int) -> ObjectiveResult:
        """See the class."""
        raise NotImplementedError


class BatchContrastive(Objective):
    """CLIP's symmetric cross-entropy over the global batch (arXiv 2103.00020): log(1 + sum of exp d) for each anchor and side."""

    def forward(self, features: Pair, reference: Pair | None, index: Tensor, valid: Tensor, epoch: int) -> ObjectiveResult:
        """See Objective; the reference is not used."""
        tau = self.temperature
        sums = contrast(features, None, valid, tau.detach(), lambda log_sum_exp, count: nn.functional.softplus(log_sum_exp))
        image, text = sums.mean_log_norm
        value = (image + text) / 2
        scale = 1 / (2 * tau.detach())
        loss = with_gradient(
            value,
            *((side, gradient * scale) for side, gradient in zip(features, sums.gradient, strict=True)),
            (tau, -sums.mean_difference.sum() * scale / tau.detach()),
        )
        return _result(loss, value, {"image": image, "text": text}, sums, floor=1.0)


class GlobalContrastive(Objective):
    """FastCLIP and, with a reference, DRRho-CLIP: negatives are all of the dataset's samples, through the moving averages u."""

    log_u: Tensor

    def __init__(self, config: GlobalConfig, *, samples: int, epochs: int) -> None:
        super().__init__(config)
        self.global_config = config
        self.decay_epochs = config.gamma_epochs if config.gamma_epochs >= 0 else math.ceil(epochs / 2)
        self.register_buffer("log_u", torch.full((samples, 2), math.nan))

    def gamma(self, epoch: int) -> float:
        """Cosine from 1 at epoch 0 to the floor at the last decay epoch (FastCLIP, arXiv 2407.01445, section 4)."""
        floor = self.global_config.gamma_min or recommended_gamma(self.decay_epochs)
        if epoch >= self.decay_epochs:
            return floor
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * epoch / self.decay_epochs))

    def forward(self, features: Pair, reference: Pair | None, index: Tensor, valid: Tensor, epoch: int) -> ObjectiveResult:
        """See Objective; the reference is used by the methods that declare it."""
        tau, config = self.temperature, self.global_config
        before = self.log_u[index]
        sums = contrast(
            features,
            reference if config.needs_reference else None,
            valid,
            tau.detach(),
            lambda log_sum_exp, count: moving_average(before, log_sum_exp, count, gamma=self.gamma(epoch), eps=config.eps),
        )
        self._remember(index, valid, sums.log_norm)
        negatives = sums.valid - 1
        loss = global_loss(sums, features, tau, negatives=negatives, rho=config.rho)
        image, text = sums.mean_log_norm * tau.detach()
        radius = 2 * config.rho * tau.detach() if config.learn_temperature else torch.zeros_like(image)
        parts = {"image": image, "text": text, "temperature": radius}
        return _result(loss, image + text + radius, parts, sums, floor=config.eps)

    @torch.no_grad()
    def _remember(self, index: Tensor, valid: Tensor, log_norm: Tensor) -> None:
        """Write log u of the global batch, so that every rank holds the same state."""
        index, valid, log_norm = (distributed.gather(value) for value in (index, valid, log_norm))
        self.log_u[index[valid]] = log_norm[valid].to(self.log_u.dtype)


def recommended_gamma(decay_epochs: int) -> float:
    """The floor of gamma that the paper's code recommends for E decay epochs: min(1, 4.177 * E^-0.7265)."""
    return min(1.0, 4.177 * math.pow(max(decay_epochs, 1), -0.7265))


def _result(loss: Tensor, value: Tensor, parts: dict[str, Tensor], sums: Contrast, *, floor: float) -> ObjectiveResult:
    """`floor` is the part of the normaliser (1 of the cross-entropy, eps of the global losses) that no negative brings."""
    weights = 1 - torch.exp(math.log(floor) - sums.log_norm).clamp_max(1) if floor else torch.ones_like(sums.log_norm)
    return ObjectiveResult(loss, value.detach(), {k: v.detach() for k, v in parts.items()}, weights, sums.effective_size.mean(0))
