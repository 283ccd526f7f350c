"""Settings of the step `train`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from drrho_clip.errors import nearest
from drrho_clip.method import METHODS, MethodConfig
from drrho_clip.schema import Config

OWN = -1.0  # "the method's own value", for settings whose 0 means something
AUTO = -2.0  # the word auto, as a number: parameters of a pipeline have one type
METHOD_SETTINGS = (
    *("temperature", "temperature_learning_rate", "eps", "rho", "gamma_min", "gamma_epochs", "gamma_schedule"),
    *("negatives_kept", "distillation_weight", "distillation_temperature", "filter_ratio", "selection_chunks"),
    *("u_home", "u_path"),
)
"""Settings that belong to the methods that have them; the others ignore them."""


class TrainConfig(Config):
    """One training run; every field is a scalar. Defaults are the published ones for ViT-B at 5,120 samples a batch."""

    run: str = Field("drrho", description="Name of the run: its folder in the store")
    dataset: str = "openmoji"
    dataset_version: int = Field(0, ge=0, description="0 = the newest when the run starts")
    split: str = "train"
    data_fraction: float = Field(1.0, gt=0, le=1, description="Share of the split to train on; smaller ones lie within larger")
    method: str = Field("drrho", description=", ".join(METHODS))
    reference: str = Field(
        "", description="Name of the reference's features; needed by drrho, shows the variances for the others"
    )
    initial: str = Field(
        "",
        description="run:NAME = go on from a finished run: its weights, its temperature where that is learnt, and its moving "
        "averages u where it saw the same dataset; empty = from scratch",
    )
    architecture: str = Field("ViT-B-16", description="Any open_clip architecture or one of drrho-small, drrho-tiny, ...")
    batch_size: int = Field(5120, ge=2, description="Global: over all processes")
    accumulate: int = Field(
        1, ge=1, description="Passes through the model per step: each holds a part of a process's batch, the loss sees all of it"
    )
    gradient_checkpointing: Literal["yes", "no"] = Field(
        "no", description="Keep what goes into a transformer's block and compute the rest again backward: slower, in less memory"
    )
    samples: int = Field(1_280_000_000, ge=1, description="Samples seen in all, rounded down to whole batches")
    learning_rate: float = Field(3.125e-4, gt=0)
    weight_decay: float = Field(0.2, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    adam_eps: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(500, ge=0)
    gradient_clip: float = Field(0.0, ge=0, description="Largest norm of the gradient; 0 = no limit")
    temperature: float = Field(
        OWN, description="Start (or constant) temperature; -1 = the method's own; auto (-2) = from the reference's features"
    )
    learn_temperature: Literal["auto", "yes", "no"] = Field("auto", description="auto = as the method is published")
    temperature_learning_rate: float = Field(OWN, description="-1 = the method's own")
    eps: float = Field(
        OWN, description="Floor inside the logarithm, lets anchors drop out; -1 = the method's own; auto (-2) = as temperature"
    )
    rho: float = Field(OWN, description="Radius of the robust objective, with a learnable temperature; -1 = the method's own")
    gamma_min: float = Field(OWN, description="Last weight of the batch in the moving average u; -1 = from the decay epochs")
    gamma_epochs: int = Field(-1, ge=-1, description="Epochs over which gamma falls from 1; -1 = half of the run")
    gamma_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="From 1 to gamma_min, or gamma_min from the start, as always with `initial`, which knows u"
    )
    u_home: Literal["auto", "device", "shared"] = Field(
        "auto", description="Where u and the weights are kept: shared = one file per node for its processes; auto = above 1 GiB"
    )
    u_path: str = Field("/dev/shm", description="Folder of that file")
    negatives_kept: float = Field(OWN, description="drrho_cvar: share of the negatives that count; -1 = the method's own")
    distillation_weight: float = Field(OWN, description="Weight of the distillation term; -1 = the method's own")
    distillation_temperature: float = Field(OWN, description="Of the reference's similarities; -1 = the one that it has")
    filter_ratio: float = Field(OWN, description="rho_topk, jest: share of the super-batch not trained on; -1 = the method's own")
    selection_chunks: int = Field(-1, ge=-1, description="jest: steps in which a batch is chosen; -1 = the method's own")
    augmentation: Literal["none", "shift", "crop"] = Field("crop", description="shift suits drawings of 32 to 64 pixels")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto = bf16 on GPUs")
    seed: int = 0
    lanes: int = Field(0, ge=0, description="Lanes of the data order; 0 = from the batch size")
    workers: int = Field(0, ge=0, description="Data workers of each process; 0 = read in the process itself")
    cache_path: str = Field(
        "", description="Folder on a local disk that keeps what was read, shared by the processes of a node; empty = none"
    )
    cache_gib: int = Field(50, ge=1, description="Most that this folder holds, in GiB; what was not used for longest goes first")
    record_weights: Literal["yes", "no"] = Field("yes", description="Keep every sample's weight, for the report and for curation")
    checkpoint_steps: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept")
    keep_checkpoint_every: int = Field(
        0, ge=0, description="Checkpoints whose step is a multiple of it are kept for good, to be evaluated later; 0 = none"
    )
    log_steps: int = Field(10, ge=1)
    collective_timeout: int = Field(
        300, ge=10, description="Seconds that a process waits for another one before it takes it for lost and ends"
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of /metrics on rank 0; 0 = not served")

    @field_validator("temperature", "eps", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return AUTO if value == "auto" else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'. " + nearest(self.method, METHODS))
        objective = self.objective()
        if (objective.needs_reference or objective.distillation_weight) and not self.reference:
            raise ValueError(
                f"method '{self.method}' needs a reference: set it to the name under which `drrho reference` stored its features"
            )
        if self.initial and not self.initial_run:
            raise ValueError(f"initial: '{self.initial}' is no run: write run:NAME")
        if self.initial_run == self.run:
            raise ValueError(f"initial: the run '{self.run}' cannot go on from itself")
        if self.automatic and not self.reference:
            raise ValueError(f"{self.automatic[0]}: auto is read off a reference's features: set reference, or a number")
        return self

    @property
    def automatic(self) -> list[str]:
        """The settings that are still to be chosen by the advisor."""
        return [name for name in ("temperature", "eps") if getattr(self, name) == AUTO]

    @property
    def initial_run(self) -> str:
        """The run that training goes on from, empty where it starts from scratch."""
        return self.initial.removeprefix("run:") if self.initial.startswith("run:") else ""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.samples // self.batch_size

    @property
    def read_size(self) -> int:
        """Samples that are read per step: the batch, or what it is chosen from."""
        return self.objective().super_batch(self.batch_size)

    def objective(self) -> MethodConfig:
        """The method's own config, with what was set here; what is automatic is the method's own until it is chosen."""
        fields: dict[str, Any] = {
            name: getattr(self, name)
            for name in METHOD_SETTINGS
            if getattr(self, name) not in (OWN, AUTO) and name in METHODS[self.method].model_fields
        }
        if self.initial and "gamma_schedule" in METHODS[self.method].model_fields:
            fields["gamma_schedule"] = "constant"  # a gamma of 1 would forget the u that is known
        if self.learn_temperature != "auto":
            fields["learn_temperature"] = self.learn_temperature == "yes"
        return METHODS[self.method].parse(fields, where=f"method {self.method}")
