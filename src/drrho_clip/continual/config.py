"""Settings of leases and of promotion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from drrho_clip.evaluation.config import EvaluateConfig, check_metric
from drrho_clip.schema import Config


class LeaseConfig(Config):
    """How long a lease lasts without a sign of life of its holder."""

    minutes: float = Field(60.0, ge=1, description="A run that was ended from outside keeps the next ones waiting for so long")


class PromoteConfig(Config):
    """Which run is to be promoted under which name, and what it must be better at; every field is a scalar."""

    name: str = Field("continual", description="What runs are promoted to: the promoted one is named in promoted/<name>.json")
    run: str = Field("", description="Name of the finished run")
    dataset: str = "openmoji"
    metric: str = Field(
        "mean_recall_at_5",
        description="mean_recall_at_K (of both directions), image_to_text_recall_at_K, text_to_image_recall_at_K, "
        "zero_shot_top_K or zero_shot_mean_per_class",
    )
    margin: float = Field(
        0.0, ge=-1, le=1, description="How much larger the metric must be than the promoted run's, as a fraction"
    )
    split: str = "heldout"
    candidates: Literal["split", "all"] = "split"
    classnames: str = "dataset"
    batch_size: int = Field(256, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    decode_threads: int = Field(0, ge=0)

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        return check_metric(metric)

    def evaluation(self, run: str) -> EvaluateConfig:
        """The evaluation that `run` is judged by."""
        shared = {name: getattr(self, name) for name in EvaluateConfig.model_fields if name in type(self).model_fields}
        return EvaluateConfig.parse({**shared, "run": run})
