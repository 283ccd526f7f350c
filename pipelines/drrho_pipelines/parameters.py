"""A pipeline's flat parameters, made from the inputs of its components, so that no default is written twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from drrho_pipelines.pods import POD_PARAMETERS, RESOURCES, dress
from drrho_pipelines.step import Step

SHARED: Mapping[str, str] = {
    "store": "s3://mlpipeline/shared/drrho",
    "store_endpoint": "",
    "dataset": "openmoji",
    "run": "steering",
}
"""Inputs that several steps take, without a prefix. The store is that of a Kubeflow installation."""
WITHOUT_PREFIX = (*SHARED, *POD_PARAMETERS)
"""A component that has one of these as an input (a launcher passes them on) gets the pipeline's own."""


class Parameters:
    """The values of one pipeline's parameters while it is being built (channels of kfp, one per parameter)."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def task(self, step: Step, **given: Any) -> Any:
        """Add the step to the pipeline: `given` (its linked inputs), what is shared, and its own parameters."""
        inputs = {name: self[name] for name in WITHOUT_PREFIX if name in step.inputs() and name not in given}
        inputs |= {name: self[step.parameter(name)] for name in step.own(WITHOUT_PREFIX)}
        task = step.component(**(inputs | given))
        dress(task, step, self.__getitem__)
        return task


def flat_parameters(
    steps: tuple[Step, ...], defaults: Mapping[str, Any], without: tuple[str, ...] = ()
) -> Callable[[Callable[[Parameters], None]], Callable[..., None]]:
    """Give a pipeline function one flat parameter for every setting of its steps and their pods.

    `defaults` replaces defaults of the components, by the parameter's full name; `without` are shared ones that no step takes.
    """
    found = [parameter for parameter in _parameters(steps, defaults) if parameter.name not in without]
    signature = inspect.Signature(sorted(found, key=lambda parameter: parameter.name))

    def decorate(build: Callable[[Parameters], None]) -> Callable[..., None]:
        def pipeline(*arguments: Any, **named: Any) -> None:
            build(Parameters(signature.bind(*arguments, **named).arguments))

        pipeline.__name__, pipeline.__doc__ = build.__name__, build.__doc__
        pipeline.__signature__ = signature  # type: ignore[attr-defined]
        return pipeline

    return decorate


def _parameters(steps: tuple[Step, ...], defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    found: dict[str, tuple[type, Any]] = {name: (str, value) for name, value in SHARED.items()} | dict(POD_PARAMETERS)
    for step in steps:
        found |= {step.parameter(name): (own.annotation, own.default) for name, own in step.own(WITHOUT_PREFIX).items()}
        found |= {f"{step.prefix}_{resource}": (str, RESOURCES[resource]) for resource in step.resources}
    if unknown := set(defaults) - set(found):
        raise ValueError(f"defaults for parameters that no step has: {sorted(unknown)}")
    return [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=defaults.get(name, default))
        for name, (kind, default) in found.items()
    ]
