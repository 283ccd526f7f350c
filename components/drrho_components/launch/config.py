"""Settings of the launchers: what trains where, as flat scalars that a pipeline's form can hold."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from drrho_clip.schema import Config

QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
UNITS |= {f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTP", start=1)}


def quantity(text: str) -> float:
    """The number that a Kubernetes quantity stands for: 500m = 0.5, 4Gi = 4 * 2**30; ValueError where it is none."""
    found = QUANTITY.fullmatch(text)
    if not found:
        raise ValueError(f"'{text}' is no Kubernetes quantity, such as 4, 500m or 16Gi")
    return float(found[1]) * UNITS.get(found[2], 1.0)


def _json(value: Any, kind: type, of: str) -> Any:
    """Parse JSON text, empty = nothing; a parsed value is taken as it is."""
    try:
        found = json.loads(value or "null") if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"this is not JSON: {error}") from None
    if not isinstance(found or kind(), kind):
        raise ValueError(f"this must be {of} in JSON")
    return found or kind()


def _strings(value: Any) -> dict[str, str]:
    found = _json(value, dict, "an object of strings")
    if not all(isinstance(item, str) for item in found.values()):
        raise ValueError('every value must be a string, in quotes: {"key": "true"}')
    return dict(found)


def _objects(value: Any) -> list[dict[str, Any]]:
    found = _json(value, list, "a list of objects")
    if not all(isinstance(item, dict) for item in found):
        raise ValueError("this must be a list of objects in JSON")
    return list(found)


# Text in a pipeline's form, where parameters are flat; Any, because the default of the field is that text too.
JsonObject = Annotated[Any, BeforeValidator(_strings)]
JsonList = Annotated[Any, BeforeValidator(_objects)]


class JobConfig(Config):
    """How training is spread and what each node of a job asks of the cluster. The launcher `local` reads the first two alone."""

    nodes: int = Field(1, ge=1, description="Machines that train; each is one pod of the job")
    processes: int = Field(1, ge=1, description="Training processes of each node: one per GPU, or some on CPUs")
    elastic: Literal["no", "yes"] = Field(
        "no", description="yes = for preemptible nodes: workers only, any of which may go and return"
    )
    node_cpu: str = Field("1", description="CPUs of each node of the job")
    node_memory: str = Field("4Gi", description="Memory of each node of the job, its shared memory included")
    node_gpus: str = Field("0", description="GPUs of each node of the job; 0 = train on CPUs")
    gpu_resource: str = Field("nvidia.com/gpu", min_length=1, description="What the cluster calls a GPU, e.g. amd.com/gpu")
    shm: str = Field("", description="Size of /dev/shm, e.g. 8Gi; empty = from the batch and the data workers")
    gpu_node_selector: JsonObject = Field({}, description='e.g. {"cloud.example/pool": "a100"}')
    gpu_tolerations: JsonList = Field([], description='e.g. [{"key": "gpu", "operator": "Exists"}]')
    priority_class: str = Field("", description="PriorityClass of the pods (pytorchjob only)")
    queue: str = Field("", description="Kueue's LocalQueue that the job waits in")
    service_account: str = Field("", description="ServiceAccount of the pods; empty = the namespace's default")
    store_secret: str = Field("", description="Secret with the store's accesskey and secretkey; empty = the pods have a role")
    image_pull_secret: str = Field("", description="Secret for the image's registry; empty = none")
    labels: JsonObject = Field("", description="JSON, added to the job and its pods")
    annotations: JsonObject = Field('{"sidecar.istio.io/inject": "false"}', description="JSON, added to the job and its pods")
    namespace: str = Field("", description="Namespace of the job; empty = the launcher's own")
    image: str = Field("", description="Image of the pods; empty = the launcher's own")
    runtime: str = Field("torch-distributed", description="ClusterTrainingRuntime (trainjob only)")
    start_timeout: int = Field(1800, ge=1, description="Seconds until all pods must run; time in a queue does not count")
    launcher_timeout: int = Field(
        300, ge=10, description="Seconds without a word from the launcher after which the job ends itself"
    )
    deadline: int = Field(0, ge=0, description="Seconds after which the job is stopped; 0 = none")
    restarts: int = Field(3, ge=0, description="Failures after which training goes on from its newest checkpoint")

    @field_validator("node_cpu", "node_memory", "node_gpus", "shm")
    @classmethod
    def _quantity(cls, value: str) -> str:
        if value:
            quantity(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.node_cpu or not self.node_memory or quantity(self.node_memory) <= 0 or quantity(self.node_cpu) <= 0:
            raise ValueError("node_cpu and node_memory: a pod with neither request nor limit can take what others need: set both")
        if self.gpus and self.processes > self.gpus:
            raise ValueError(
                f"processes: {self.processes} processes a node cannot share its {self.gpus} GPUs: each takes one. "
                "Set processes to node_gpus"
            )
        return self

    @property
    def gpus(self) -> int:
        """GPUs of each node."""
        return int(quantity(self.node_gpus or "0"))
