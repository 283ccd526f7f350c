"""A step of a pipeline: one component, and how its pod is meant to run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

Component = Any
"""A component of kfp, which has no types of its own."""

GIVEN = ("depends_on", "lease")
"""Inputs that the pipeline gives to every step that has them."""

CPU, GPU = ("cpu", "memory"), ("cpu", "memory", "gpus")
HOUR, DAY = 3600, 24 * 3600


@dataclass(frozen=True)
class Step:
    """One component in a pipeline: its parameters are its inputs with `prefix`, less those that other steps give (`linked`).

    `resources` become parameters; a step without any is small and asks for little. `cached` is for a step whose inputs say all
    that its result depends on; one that looks at a file or table by its name does not. `seconds` ends a step that hangs (0 = its
    length is that of the data). `shared_memory` is for data workers. `others` are prefixes of other steps whose settings it
    takes, too: an input that begins with one is a parameter by its own name.
    """

    prefix: str
    component: Component
    linked: tuple[str, ...] = ()
    resources: tuple[str, ...] = CPU
    cached: bool = True
    seconds: int = 0
    shared_memory: bool = False
    others: tuple[str, ...] = ()

    def inputs(self) -> dict[str, inspect.Parameter]:
        """The inputs of the component that are no artifacts."""
        inputs = self.component.component_spec.inputs
        parameters = inspect.signature(self.component.python_func).parameters
        return {name: parameter for name, parameter in parameters.items() if name in inputs}

    def parameter(self, name: str) -> str:
        """The pipeline's parameter that this input is."""
        return name if name.startswith(tuple(f"{other}_" for other in self.others)) else f"{self.prefix}_{name}"

    def own(self, shared: tuple[str, ...]) -> dict[str, inspect.Parameter]:
        """The inputs that become parameters of the pipeline, by their name in the component; `shared` have no prefix."""
        others = {*shared, *self.linked, *GIVEN}
        return {name: parameter for name, parameter in self.inputs().items() if name not in others}
