"""A pipeline's flat parameters, made from the inputs of its components, so that no default is written twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import kubernetes

Component = Any
"""A component of kfp, which has no types of its own."""

SHARED: Mapping[str, str] = {
    "store": "s3://mlpipeline/shared/drrho",
    "store_endpoint": "",
    "store_secret": "mlpipeline-minio-artifact",
    "dataset": "openmoji",
    "run": "steering",
}
"""Parameters that several steps take, without a prefix. The store and its secret are those of a Kubeflow installation."""

KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
"""Keys of the secret, and the environment variables that they become inside a step."""

RESOURCES: Mapping[str, str] = {"cpu": "1", "memory": "4Gi", "gpus": "0"}
"""Per step, as strings: the server takes numbers for nothing."""
CPU, GPU = ("cpu", "memory"), ("cpu", "memory", "gpus")

ACCELERATOR = "nvidia.com/gpu"


@dataclass(frozen=True)
class Step:
    """One component in a pipeline: its parameters are its inputs with `prefix`, less those that other steps give (`linked`)."""

    prefix: str
    component: Component
    linked: tuple[str, ...] = ()
    resources: tuple[str, ...] = CPU

    def own(self) -> dict[str, inspect.Parameter]:
        """The inputs that become parameters of the pipeline, by their name in the component."""
        inputs = self.component.component_spec.inputs
        return {
            name: parameter
            for name, parameter in inspect.signature(self.component.python_func).parameters.items()
            if name in inputs and name not in SHARED and name not in self.linked
        }


class Parameters:
    """The values of one pipeline's parameters while it is being built (channels of kfp, one per parameter)."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def task(self, step: Step, **given: Any) -> Any:
        """Add the step to the pipeline: `given` (its linked inputs), what is shared, and its own parameters."""
        inputs = {name: self[name] for name in SHARED if name in step.component.component_spec.inputs and name not in given}
        inputs |= {name: self[f"{step.prefix}_{name}"] for name in step.own()}
        task = step.component(**inputs, **given)
        kubernetes.use_secret_as_env(task, self["store_secret"], KEYS, optional=True)
        task.set_cpu_request(self[f"{step.prefix}_cpu"]).set_memory_limit(self[f"{step.prefix}_memory"])
        if "gpus" in step.resources:
            task.set_accelerator_type(ACCELERATOR).set_accelerator_limit(self[f"{step.prefix}_gpus"])
        return task


def flat_parameters(
    steps: tuple[Step, ...], defaults: Mapping[str, Any]
) -> Callable[[Callable[[Parameters], None]], Callable[..., None]]:
    """Give a pipeline function one flat scalar parameter for every setting of its steps.

    `defaults` replaces defaults of the components, by the parameter's full name.
    """
    signature = inspect.Signature(sorted(_parameters(steps, defaults), key=lambda parameter: parameter.name))

    def decorate(build: Callable[[Parameters], None]) -> Callable[..., None]:
        def pipeline(*arguments: Any, **named: Any) -> None:
            build(Parameters(signature.bind(*arguments, **named).arguments))

        pipeline.__name__, pipeline.__doc__ = build.__name__, build.__doc__
        pipeline.__signature__ = signature  # type: ignore[attr-defined]
        return pipeline

    return decorate


def _parameters(steps: tuple[Step, ...], defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    found: dict[str, tuple[type, Any]] = {name: (str, value) for name, value in SHARED.items()}
    for step in steps:
        found |= {f"{step.prefix}_{name}": (own.annotation, own.default) for name, own in step.own().items()}
        found |= {f"{step.prefix}_{resource}": (str, RESOURCES[resource]) for resource in step.resources}
    if unknown := set(defaults) - set(found):
        raise ValueError(f"defaults for parameters that no step has: {sorted(unknown)}")
    return [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=defaults.get(name, default))
        for name, (kind, default) in found.items()
    ]
