"""Objectives as the trainer uses them: a module with the state of its method (u, temperature) that turns features into a loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from drrho_clip import distributed
from drrho_clip.errors import DataError
from drrho_clip.method.config import DrrhoCvarConfig, GlobalConfig, MethodConfig, RhoTopKConfig
from drrho_clip.method.contrastive import Contrast, Exponential, GlobalBatch, Hardest, Pair, contrast, with_gradient
from drrho_clip.method.distillation import distill
from drrho_clip.method.global_loss import check_features, global_loss, with_u
from drrho_clip.method.rows import UState
from drrho_clip.method.selection import Scored, jest, rho_top_k


class ObjectiveResult(NamedTuple):
    """What a step learns from its batch; only `loss` has a gradient."""

    loss: Tensor  # 0-d, for backward: its value need not mean anything
    value: Tensor  # 0-d, the value of the objective over the global batch
    parts: dict[str, Tensor]  # named parts of the value
    weights: Tensor  # [b, 2] the share of its gradient that each anchor keeps (image, text), from 0 to 1 = all of it
    losses: Tensor  # [b, 2] what each anchor adds to the value
    effective_size: Tensor  # [2] mean effective number of negatives of the valid anchors of the global batch


class Objective(nn.Module):
    """Base of the objectives: the temperature, kept as log(1 / temperature) where it is learnt, as CLIP does.

    forward(features (image [b, d], text [b, d]), reference or None, index [b], valid [b], epoch) -> ObjectiveResult; every rank
    calls it with its own samples. The gradient of the temperature is that of the global batch on every rank: nothing to reduce.
    """

    def __init__(self, config: MethodConfig, reference_temperature: float) -> None:
        super().__init__()
        self.config = config
        self.reference_temperature = config.distillation_temperature or reference_temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), requires_grad=config.learn_temperature)
        self._checked = False

    @property
    def temperature(self) -> Tensor:
        """The temperature, 0-d float32."""
        return torch.exp(-self.log_scale)

    def gamma(self, epoch: int) -> float | None:
        """Weight of the batch in u at this epoch; None where the method has no u."""
        return None

    def by_rows(self) -> dict[str, UState]:
        """State with a row per sample, by name: too large for state_dict, and the same on every rank."""
        return {}

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep a learnt temperature within its bounds; call after every optimiser step."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(-math.log(self.config.max_temperature), -math.log(self.config.min_temperature))

    def forward(self, features: Pair, reference: Pair | None, index: Tensor, valid: Tensor, epoch: int) -> ObjectiveResult:
        """See the class. DataError, in the first step: features or indices that cannot be meant."""
        used = reference if self.config.steered or self.config.distillation_weight else None
        if not self._checked:
            self._check(features, used, index)
        batch = GlobalBatch(features, used, valid)
        tau = self.temperature
        result = self.contrast(batch, features, tau, index, epoch)
        weight = self.config.distillation_weight
        if not weight:
            return result
        term = distill(batch, tau.detach(), self.reference_temperature)
        gradients = [(side, weight * gradient) for side, gradient in zip(features, term.gradient, strict=True)]
        loss = with_gradient(result.loss, *gradients, (tau, weight * term.by_temperature))
        value = result.value + weight * term.value
        return result._replace(loss=loss, value=value, parts=result.parts | {"distillation": term.value})

    def contrast(self, batch: GlobalBatch, features: Pair, tau: Tensor, index: Tensor, epoch: int) -> ObjectiveResult:
        """The method's own loss on the global batch; `features` are this rank's, with gradient."""
        raise NotImplementedError

    def _check(self, features: Pair, reference: Pair | None, index: Tensor) -> None:
        check_features(features, reference)
        if reference is None and (self.config.steered or self.config.distillation_weight):
            raise DataError("The method needs the reference's features, and the batch has none")
        self._checked = True


class BatchContrastive(Objective):
    """CLIP's symmetric cross-entropy over the global batch (arXiv 2103.00020): log(1 + sum of exp d) for each anchor and side."""

    def contrast(self, batch: GlobalBatch, features: Pair, tau: Tensor, index: Tensor, epoch: int) -> ObjectiveResult:
        """See Objective; the reference is not used."""
        rule = Exponential(lambda log_sum_exp, count: nn.functional.softplus(log_sum_exp))
        sums = contrast(batch, tau.detach(), rule, steered=False)
        image, text = sums.mean_normaliser
        value = (image + text) / 2
        scale = 1 / (2 * tau.detach())
        loss = with_gradient(
            value,
            *((side, gradient * scale) for side, gradient in zip(features, sums.gradient, strict=True)),
            (tau, -sums.mean_difference.sum() * scale / tau.detach()),
        )
        return _result(loss, value, {"image": image, "text": text}, sums, kept(sums.normaliser, floor=1.0), sums.normaliser)


class SelectedContrastive(BatchContrastive):
    """CLIP's cross-entropy on samples that `select` chose."""

    @torch.no_grad()
    def select(
        self, features: Pair, reference: Pair, index: Tensor, valid: Tensor, size: int, generator: torch.Generator
    ) -> Tensor:
        """Return the dataset indices [size] to train on, the same on every rank; what is passed is this rank's super-batch.

        DataError: features that cannot be meant, a super-batch of all ranks with fewer than `size` samples.
        """
        check_features(features, reference)
        batch = GlobalBatch(features, reference, valid)
        if size > len(batch.valid):
            raise DataError(
                f"A batch of {size} cannot be chosen from {len(batch.valid)} samples", fix="Read a larger super-batch."
            )
        assert batch.reference is not None
        assert isinstance(self.config, RhoTopKConfig)
        index, order = distributed.gather(index).sort()  # one order for any number of processes
        learner = Scored((batch.everything[0][order], batch.everything[1][order]), self.temperature.item())
        steering = Scored((batch.reference[0][order], batch.reference[1][order]), self.reference_temperature)
        if self.config.rule == "rho":
            return index[rho_top_k(learner, steering, batch.valid[order], size)]
        drawn = generator if self.config.rule == "jest" else None
        chunks = self.config.selection_chunks
        return index[jest(learner, steering, batch.valid[order], size, chunks=chunks, generator=drawn)]


class GlobalContrastive(Objective):
    """FastCLIP and, with a reference, DRRho-CLIP: negatives are all of the dataset's samples, through the moving averages u."""

    def __init__(self, config: GlobalConfig, reference_temperature: float, *, samples: int, epochs: int) -> None:
        super().__init__(config, reference_temperature)
        self.global_config = config
        self.decay_epochs = config.gamma_epochs if config.gamma_epochs >= 0 else math.ceil(epochs / 2)
        self.u = UState(samples, home=config.u_home, folder=config.u_path)

    def by_rows(self) -> dict[str, UState]:
        """See Objective."""
        return {"u": self.u}

    def gamma(self, epoch: int) -> float:
        """Cosine from 1 at epoch 0 to the floor at the last decay epoch (FastCLIP, arXiv 2407.01445, section 4), or constant."""
        floor = self.global_config.gamma_min or recommended_gamma(self.decay_epochs)
        if epoch >= self.decay_epochs or self.global_config.gamma_schedule == "constant":
            return floor
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * epoch / self.decay_epochs))

    def contrast(self, batch: GlobalBatch, features: Pair, tau: Tensor, index: Tensor, epoch: int) -> ObjectiveResult:
        """See Objective."""
        config = self.global_config
        rule = with_u(self.u.get(index), gamma=self.gamma(epoch), eps=config.eps)
        sums = contrast(batch, tau.detach(), rule, steered=config.steered)
        self._remember(index, batch, sums.all_normalisers)
        loss = global_loss(sums, features, tau, negatives=batch.count - 1, rho=config.rho)
        image, text = sums.mean_normaliser * tau.detach()
        radius = 2 * config.rho * tau.detach() if config.learn_temperature else torch.zeros_like(image)
        parts = {"image": image, "text": text, "temperature": radius}
        weights, losses = kept(sums.normaliser, floor=config.eps), sums.normaliser * tau.detach()
        return _result(loss, image + text + radius, parts, sums, weights, losses)

    @torch.no_grad()
    def _remember(self, index: Tensor, batch: GlobalBatch, log_u: Tensor) -> None:
        """Write log u [B, 2] of the global batch, so that every rank holds the same state."""
        index = distributed.gather(index)
        self.u.put(index[batch.valid], log_u[batch.valid])

    def _check(self, features: Pair, reference: Pair | None, index: Tensor) -> None:
        super()._check(features, reference, index)
        self.u.check(index)


class HardContrastive(Objective):
    """DRRho-CLIP with CVaR in place of KL: F(i) = mean of the k largest l(i, j) - l_ref(i, j) over the negatives of the batch."""

    def contrast(self, batch: GlobalBatch, features: Pair, tau: Tensor, index: Tensor, epoch: int) -> ObjectiveResult:
        """See Objective; the temperature plays no part."""
        assert isinstance(self.config, DrrhoCvarConfig)
        rule = Hardest(max(1, round(self.config.negatives_kept * (int(batch.count) - 1))))
        sums = contrast(batch, 1.0, rule, steered=True)
        image, text = sums.mean_difference
        loss = with_gradient(image + text, *zip(features, sums.gradient, strict=True))
        weights = torch.ones_like(sums.normaliser)
        return _result(loss, image + text, {"image": image, "text": text}, sums, weights, sums.difference)


def recommended_gamma(decay_epochs: int) -> float:
    """The floor of gamma that the paper's code recommends for E decay epochs: min(1, 4.177 * E^-0.7265)."""
    return min(1.0, 4.177 * math.pow(max(decay_epochs, 1), -0.7265))


def kept(log_norm: Tensor, *, floor: float) -> Tensor:
    """Share of the normaliser that an anchor's negatives bring; `floor` is the rest (1 of the cross-entropy, eps with u)."""
    return 1 - torch.exp(math.log(floor) - log_norm).clamp_max(1) if floor else torch.ones_like(log_norm)


def _result(
    loss: Tensor, value: Tensor, parts: dict[str, Tensor], sums: Contrast, weights: Tensor, losses: Tensor
) -> ObjectiveResult:
    plain = {name: part.detach() for name, part in parts.items()}
    return ObjectiveResult(loss, value.detach(), plain, weights, losses, sums.mean_effective_size)
