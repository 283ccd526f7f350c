"""A step that several pods share: the first of them is the step itself, and the others stand beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kfp import dsl

from drrho_pipelines.parameters import Parameters
from drrho_pipelines.step import Step


@dataclass(frozen=True)
class Shared:
    """A step whose work is shared: by its inputs `number` (which of them this is, from 0) and `count` (how many there are)."""

    step: Step
    plan: Step  # gives the numbers of the others
    number: str
    count: str


def add_shared(parameters: Parameters, shared: Shared, lease: Any = "", **given: Any) -> Any:
    """Add the step: number 0, which also does what the others have not done, and publishes.

    The others start beside it, and only where `count` asks for them. Nothing waits for them: the server starts no task after a
    condition that was not met, and one that finds no free node must not hold up the run. So they have no part in a lease, which
    may be given back before they end.
    """
    count = parameters[f"{shared.step.prefix}_{shared.count}"]
    task = parameters.task(shared.step, lease=lease, **given)
    with dsl.If(count > 1, name=f"several-{shared.count}"):
        planned = parameters.task(shared.plan, **{shared.count: count}, **given)
        with dsl.ParallelFor(planned.output, name=f"{shared.step.prefix}-{shared.count}") as number:
            parameters.task(shared.step, **{shared.number: number}, **given)
    return task
