"""Settings of the step `reference`."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from drrho_clip.schema import Config


class ReferenceConfig(Config):
    """Which model looks at which dataset; every field is a scalar."""

    dataset: str = "openmoji"
    model: str = Field("ViT-B-32/openai", description="ARCHITECTURE/tag, ARCHITECTURE:weights file, or run:NAME")
    name: str = Field("", description="Name of the features, for the setting `reference` of training; empty = from the model")
    batch_size: int = Field(256, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    pool: int = Field(
        1024, ge=1, description="Negatives, drawn from the training split, that the table of losses is computed against"
    )
    seed: int = Field(0, ge=0, description="Draws the pool")
    decode_threads: int = Field(0, ge=0, description="Threads that decode images; 0 = one per core")
    worker: int = Field(0, ge=0, description="Which of the workers this is; 0 also does what the others have not done")
    workers: int = Field(1, ge=1, le=64, description="How many share the shards; the one that finds all of them done publishes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.worker >= self.workers:
            raise ValueError(f"worker {self.worker} of {self.workers}: workers count from 0")
        if not self.reference_id:
            raise ValueError(f"no name can be made of the model '{self.model}': set name")
        return self

    @property
    def reference_id(self) -> str:
        """The name, or the model's with every other character replaced: "run:ref" -> "run-ref"."""
        return self.name or re.sub(r"[^A-Za-z0-9._]+", "-", self.model).strip("-.")
