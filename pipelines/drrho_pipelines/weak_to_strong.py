"""The pipeline `weak_to_strong`: a reference that is smaller than the target and trained on less."""

from __future__ import annotations

from kfp import dsl

from drrho_pipelines.ingest import GROUPS, INGEST
from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.shared import add_shared
from drrho_pipelines.studies import CELL, DEFAULTS, PLAN, REPORT, add_runs

STEPS = (INGEST, PLAN, CELL, REPORT)
OWN = {
    **{name: value for name, value in DEFAULTS.items() if not name.startswith("reference_")},
    "study_methods": "fastclip,drrho",
    "study_weak_architecture": "drrho-tiny",
}


@dsl.pipeline(name="weak-to-strong", description="See whether a weak reference makes a stronger model")
@flat_parameters(STEPS, defaults=OWN, without=("run",))
def weak_to_strong(parameters: Parameters) -> None:
    """The reference first, unless `study_references` names one, then every method with every seed."""
    data = add_shared(parameters, GROUPS)
    plan = parameters.task(PLAN, kind="weak_to_strong", reference="", depends_on=data.outputs["fingerprint"])
    reference = parameters.task(CELL, cell=plan.outputs["reference"], depends_on=plan.outputs["fingerprint"])
    add_runs(parameters, plan, reference.outputs["Output"])
