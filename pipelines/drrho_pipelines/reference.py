"""The step `reference`, and beside it the workers that share its shards."""

from __future__ import annotations

from typing import Any

from kfp import dsl

from drrho_components.plan import plan
from drrho_components.reference import reference
from drrho_pipelines.parameters import Parameters
from drrho_pipelines.step import GPU, HOUR, Step

REFERENCE = Step("reference", reference, linked=("worker",), resources=GPU, cached=False)  # the model may be a file
PLAN = Step("plan", plan, linked=("workers",), resources=(), cached=False, seconds=HOUR)


def add_reference(parameters: Parameters, depends_on: Any, lease: Any = "") -> Any:
    """Add the step: worker 0, which also does what the others have not done, and publishes.

    The others start beside it, and only where `reference_workers` asks for them. Nothing waits for them: the server starts no
    task after a condition that was not met, and a worker that finds no free GPU must not hold up the run. So they have no part
    in a lease, which may be given back before they end.
    """
    workers = parameters["reference_workers"]
    task = parameters.task(REFERENCE, depends_on=depends_on, lease=lease)
    with dsl.If(workers > 1, name="several-workers"):
        planned = parameters.task(PLAN, workers=workers, depends_on=depends_on)
        with dsl.ParallelFor(planned.output, name="reference-workers") as worker:
            parameters.task(REFERENCE, worker=worker, depends_on=depends_on)
    return task
