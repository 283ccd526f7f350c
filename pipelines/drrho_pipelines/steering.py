"""The pipeline `steering`: ingest, reference, train, evaluate, report."""

from __future__ import annotations

from kfp import dsl

from drrho_clip.config import SMALL
from drrho_components.evaluate import evaluate
from drrho_components.ingest import ingest
from drrho_components.reference import reference
from drrho_components.report import report
from drrho_components.train import train
from drrho_pipelines.parameters import GPU, Parameters, Step, flat_parameters

INGEST = Step("data", ingest)
REFERENCE = Step("reference", reference, linked=("depends_on", "worker", "workers"), resources=GPU)
TRAIN = Step("train", train, linked=("depends_on", "dataset_version", "reference"), resources=GPU)
EVALUATE = Step("evaluate", evaluate, linked=("depends_on", "model", "reference"), resources=GPU)
REPORT = Step("report", report, linked=("depends_on", "runs", "split"))
STEPS = (INGEST, REFERENCE, TRAIN, EVALUATE, REPORT)

DEFAULTS = {"reference_model": "", "train_method": "fastclip", **{f"train_{key}": value for key, value in SMALL.items()}}
"""Defaults that run on a CPU without internet; the components' own are the published ones, for many GPUs and a public model.

To steer, set `reference_model` (ViT-B-32/openai, or run:NAME) and `train_method` drrho."""


@dsl.pipeline(name="steering", description="Train a CLIP model steered by a reference model, and show what that brought")
@flat_parameters(STEPS, defaults=DEFAULTS)
def steering(parameters: Parameters) -> None:
    """One run from image-text data to a report; every step finds what is done already."""
    data = parameters.task(INGEST)
    data.set_caching_options(False)  # it looks at data outside, which may have changed under the same name
    features = parameters.task(REFERENCE, depends_on=data.outputs["fingerprint"])
    trained = parameters.task(
        TRAIN,
        dataset_version=data.outputs["version"],
        reference=features.outputs["name"],
        depends_on=features.outputs["fingerprint"],
    )
    evaluated = parameters.task(EVALUATE, reference=features.outputs["name"], depends_on=trained.outputs["Output"])
    parameters.task(REPORT, runs=parameters["run"], split=evaluated.outputs["label"], depends_on=evaluated.outputs["fingerprint"])
