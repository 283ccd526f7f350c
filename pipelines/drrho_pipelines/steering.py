"""The pipeline `steering`: ingest, reference, train, evaluate, report."""

from __future__ import annotations

from kfp import dsl

from drrho_clip.config import SMALL
from drrho_components.evaluate import evaluate
from drrho_components.report import report
from drrho_components.train import train
from drrho_pipelines.ingest import GROUPS, INGEST
from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.reference import REFERENCE, WORKERS
from drrho_pipelines.shared import add_shared
from drrho_pipelines.step import DAY, GPU, HOUR, Step

TRAIN = Step("train", train, linked=("dataset_version", "reference"), resources=GPU, shared_memory=True)
EVALUATE = Step("evaluate", evaluate, linked=("model", "reference"), resources=GPU, cached=False, seconds=DAY)
REPORT = Step("report", report, linked=("runs", "split"), seconds=HOUR)
STEPS = (INGEST, REFERENCE, TRAIN, EVALUATE, REPORT)

DEFAULTS = {"reference_model": "", "train_method": "fastclip", **{f"train_{key}": value for key, value in SMALL.items()}}
"""Defaults that run on a CPU without internet; the components' own are the published ones, for many GPUs and a public model.

To steer, set `reference_model` (ViT-B-32/openai, or run:NAME) and `train_method` drrho."""


@dsl.pipeline(name="steering", description="Train a CLIP model steered by a reference model, and show what that brought")
@flat_parameters(STEPS, defaults=DEFAULTS)
def steering(parameters: Parameters) -> None:
    """One run from image-text data to a report; every step finds what is done already."""
    data = add_shared(parameters, GROUPS)
    features = add_shared(parameters, WORKERS, depends_on=data.outputs["fingerprint"])
    trained = parameters.task(
        TRAIN,
        dataset_version=data.outputs["version"],
        reference=features.outputs["name"],
        depends_on=features.outputs["fingerprint"],
    )
    evaluated = parameters.task(EVALUATE, reference=features.outputs["name"], depends_on=trained.outputs["Output"])
    parameters.task(REPORT, runs=parameters["run"], split=evaluated.outputs["label"], depends_on=evaluated.outputs["fingerprint"])
