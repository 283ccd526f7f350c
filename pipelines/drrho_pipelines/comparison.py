"""The pipeline `comparison`: every method side by side."""

from __future__ import annotations

from kfp import dsl

from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.studies import DEFAULTS, STEPS, add_study


@dsl.pipeline(name="comparison", description="Compare methods on one dataset over several seeds, with intervals")
@flat_parameters(STEPS, defaults=DEFAULTS, without=("run",))
def comparison(parameters: Parameters) -> None:
    """Every method with every seed, each run done once; a retry finds what is done."""
    add_study(parameters, "comparison")
