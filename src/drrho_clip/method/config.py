"""The methods by name, each one frozen config that builds its objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from drrho_clip.schema import Config

if TYPE_CHECKING:
    from drrho_clip.method.objective import Objective


class MethodConfig(Config):
    """What every method declares; `build` gives its objective for a dataset of `samples` and a run of `epochs`."""

    needs_reference: ClassVar[bool] = False
    steered: ClassVar[bool] = False
    """Whether the reference's losses are subtracted from the model's own."""

    temperature: float = Field(0.07, gt=0, le=1)
    learn_temperature: bool = True
    min_temperature: float = Field(0.01, gt=0, description="A logit scale of at most 100, as CLIP keeps it")
    max_temperature: float = Field(1.0, gt=0)
    temperature_learning_rate: float = Field(0.0, ge=0, description="0 = the model's learning rate")
    distillation_weight: float = Field(0.0, ge=0, description="Weight of the distillation term beside the loss")
    distillation_temperature: float = Field(0.0, ge=0, description="Of the reference's similarities; 0 = the one it has")

    def super_batch(self, batch_size: int) -> int:
        """Samples that are read for a batch: more than it has where the method chooses among them."""
        return batch_size

    def build(self, samples: int, epochs: int, reference_temperature: float = 0.01) -> Objective:
        """Return the objective as a module; its state is u (if it has one) and the temperature.

        `reference_temperature` is the one that the reference was trained to, for distillation.
        """
        raise NotImplementedError


class OpenClipConfig(MethodConfig):
    """Symmetric cross-entropy over the batch (Radford et al., arXiv 2103.00020), as open_clip trains it."""

    def build(self, samples: int, epochs: int, reference_temperature: float = 0.01) -> Objective:
        """See MethodConfig."""
        from drrho_clip.method.objective import BatchContrastive

        return BatchContrastive(self, reference_temperature)


class GlobalConfig(MethodConfig):
    """What the global contrastive methods share (SogCLR, arXiv 2202.12387; FastCLIP, arXiv 2407.01445)."""

    eps: float = Field(1e-14, ge=0)
    rho: float = Field(11.0, ge=0)
    gamma_min: float = Field(0.0, ge=0, le=1, description="0 = recommended from the number of decay epochs")
    gamma_epochs: int = Field(-1, ge=-1, description="-1 = half of the run")
    gamma_schedule: Literal["cosine", "constant"] = Field("cosine", description="From 1 to gamma_min, or gamma_min at once")

    u_home: Literal["auto", "device", "shared"] = Field("auto", description="shared = one file per node; auto = above 1 GiB")
    u_path: str = Field("/dev/shm", description="Folder of the node's file")

    def build(self, samples: int, epochs: int, reference_temperature: float = 0.01) -> Objective:
        """See MethodConfig."""
        from drrho_clip.method.objective import GlobalContrastive

        return GlobalContrastive(self, reference_temperature, samples=samples, epochs=epochs)


class FastClipConfig(GlobalConfig):
    """FastCLIP-v3: global learnable temperature, eps 1e-14, rho 11 (arXiv 2407.01445)."""

    temperature_learning_rate: float = Field(7.8125e-5, ge=0)


class DrrhoConfig(GlobalConfig):
    """DRRho-CLIP: pairwise losses minus the reference's, constant temperature 0.01, eps 1e-4 (arXiv 2505.06699)."""

    needs_reference: ClassVar[bool] = True
    steered: ClassVar[bool] = True

    temperature: float = Field(0.01, gt=0, le=1)
    learn_temperature: bool = False
    eps: float = Field(1e-4, ge=0)


class DrrhoCvarConfig(MethodConfig):
    """DRRho-CLIP with hard selection: the mean of the hardest negatives of each anchor, those of the largest l - l_ref."""

    needs_reference: ClassVar[bool] = True
    steered: ClassVar[bool] = True

    learn_temperature: bool = False  # the loss has none; it is the scale that the finished model is exported with
    negatives_kept: float = Field(0.1, gt=0, le=1, description="Share of the batch's negatives that count, at least one")

    def build(self, samples: int, epochs: int, reference_temperature: float = 0.01) -> Objective:
        """See MethodConfig."""
        from drrho_clip.method.objective import HardContrastive

        return HardContrastive(self, reference_temperature)


class RhoTopKConfig(OpenClipConfig):
    """CLIP's cross-entropy on the samples of a super-batch with the largest loss minus the reference's (arXiv 2206.07137)."""

    needs_reference: ClassVar[bool] = True
    rule: ClassVar[Literal["rho", "jest", "jest_top_k"]] = "rho"

    filter_ratio: float = Field(0.8, ge=0, lt=1, description="Share of the super-batch that is not trained on")
    selection_chunks: int = Field(16, ge=1, description="JEST: steps in which the batch is chosen")

    def super_batch(self, batch_size: int) -> int:
        """batch_size / (1 - filter_ratio)."""
        return round(batch_size / (1 - self.filter_ratio))

    def build(self, samples: int, epochs: int, reference_temperature: float = 0.01) -> Objective:
        """See MethodConfig."""
        from drrho_clip.method.objective import SelectedContrastive

        return SelectedContrastive(self, reference_temperature)


class JestConfig(RhoTopKConfig):
    """CLIP's cross-entropy on a sub-batch drawn by learnability, chunk by chunk (JEST, arXiv 2406.17711)."""

    rule: ClassVar[Literal["rho", "jest", "jest_top_k"]] = "jest"


class JestTopKConfig(RhoTopKConfig):
    """JEST that takes the most learnable of each chunk instead of drawing."""

    rule: ClassVar[Literal["rho", "jest", "jest_top_k"]] = "jest_top_k"


class DistillationConfig(OpenClipConfig):
    """Cross-entropy and, in equal parts, MobileCLIP's distillation of similarities (arXiv 2311.17049)."""

    needs_reference: ClassVar[bool] = True

    distillation_weight: float = Field(1.0, ge=0)


class FastClipDistillationConfig(FastClipConfig):
    """FastCLIP-v3 with the distillation term."""

    needs_reference: ClassVar[bool] = True

    distillation_weight: float = Field(1.0, ge=0)


class DrrhoDistillationConfig(DrrhoConfig):
    """DRRho-CLIP with the distillation term."""

    distillation_weight: float = Field(1.0, ge=0)


METHODS: dict[str, type[MethodConfig]] = {
    "openclip": OpenClipConfig,
    "fastclip": FastClipConfig,
    "drrho": DrrhoConfig,
    "drrho_cvar": DrrhoCvarConfig,
    "rho_topk": RhoTopKConfig,
    "jest": JestConfig,
    "jest_topk": JestTopKConfig,
    "distillation": DistillationConfig,
    "fastclip_distillation": FastClipDistillationConfig,
    "drrho_distillation": DrrhoDistillationConfig,
}
