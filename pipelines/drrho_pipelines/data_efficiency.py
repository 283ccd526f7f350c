"""The pipeline `data_efficiency`: methods on shares of the data, at equal samples seen."""

from __future__ import annotations

from kfp import dsl

from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.studies import DEFAULTS, STEPS, add_study


@dsl.pipeline(name="data-efficiency", description="Find how much less data a method needs than the baseline with all of it")
@flat_parameters(STEPS, defaults=DEFAULTS, without=("run",))
def data_efficiency(parameters: Parameters) -> None:
    """Every method on every share with every seed, each run done once; a retry finds what is done."""
    add_study(parameters, "data_efficiency")
