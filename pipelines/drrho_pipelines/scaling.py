"""The pipeline `scaling`: a law of error against compute for every method."""

from __future__ import annotations

from kfp import dsl

from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.studies import DEFAULTS, STEPS, add_study

OWN = {**DEFAULTS, "study_budgets": "32000,64000,128000"}


@dsl.pipeline(name="scaling", description="Fit a scaling law per method, over model sizes and samples seen")
@flat_parameters(STEPS, defaults=OWN, without=("run",))
def scaling(parameters: Parameters) -> None:
    """Every method at every size and budget with every seed, each run done once; a retry finds what is done."""
    add_study(parameters, "scaling")
