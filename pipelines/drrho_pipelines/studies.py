"""What the pipelines of studies share: a plan, its runs beside each other, a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from drrho_clip.config import SMALL
from drrho_components.cell import cell
from drrho_components.plan_study import plan_study
from drrho_components.study_report import study_report
from drrho_pipelines.ingest import GROUPS, INGEST
from drrho_pipelines.parameters import Parameters
from drrho_pipelines.reference import REFERENCE, WORKERS
from drrho_pipelines.shared import add_shared
from drrho_pipelines.step import GPU, HOUR, Step

PLAN = Step(
    "study",
    plan_study,
    linked=("kind", "reference"),
    resources=(),
    cached=False,
    seconds=HOUR,
    others=("train", "evaluate"),
)
CELL = Step("train", cell, linked=("cell",), resources=GPU, cached=False, shared_memory=True)
REPORT = Step("report", study_report, linked=("study", "runs"), cached=False, seconds=HOUR)
STEPS = (INGEST, REFERENCE, PLAN, CELL, REPORT)

DEFAULTS: Mapping[str, Any] = {
    "reference_model": "",
    "study_methods": "openclip,fastclip",
    **{f"train_{key}": value for key, value in SMALL.items()},
}
"""Defaults that run on a CPU without internet. To steer, set `reference_model` and add drrho to `study_methods`."""


def add_study(parameters: Parameters, kind: str) -> None:
    """Data and reference as in the pipeline `steering`, then the study."""
    data = add_shared(parameters, GROUPS)
    features = add_shared(parameters, WORKERS, depends_on=data.outputs["fingerprint"])
    plan = parameters.task(PLAN, kind=kind, reference=features.outputs["name"], depends_on=features.outputs["fingerprint"])
    add_runs(parameters, plan, plan.outputs["fingerprint"])


def add_runs(parameters: Parameters, plan: Any, depends_on: Any) -> None:
    """The runs of a plan beside each other, as many at a time as the cluster has room for, then the report."""
    with dsl.ParallelFor(plan.outputs["Output"], name="runs") as item:
        done = parameters.task(CELL, cell=item, depends_on=depends_on)
    parameters.task(REPORT, study=plan.outputs["name"], runs=dsl.Collected(done.outputs["Output"]))
