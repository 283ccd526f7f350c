"""TrainJob of Kubeflow Trainer, v2.2 and later."""

from __future__ import annotations

from drrho_clip.errors import ConfigError
from drrho_components.kube import Object
from drrho_components.launch.config import JobConfig
from drrho_components.launch.kind import JobKind
from drrho_components.launch.plan import Plan

NODE = "node"  # the replicated job of the runtime, and its container


def spec(plan: Plan) -> Object:
    """A job of the runtime `torch-distributed`, whose pods are patched to what a PyTorchJob's are."""
    config = plan.config
    pod = plan.pod({"name": NODE})
    return {
        "runtimeRef": {"name": config.runtime},
        "trainer": {
            "image": plan.image,
            "command": plan.arguments(),
            "env": plan.env(),
            "numNodes": config.nodes,
            "numProcPerNode": config.processes,
            "resourcesPerNode": plan.resources(),
        },
        "runtimePatches": [
            {
                "manager": "drrho-clip/launcher",
                "trainingRuntimeSpec": {
                    "template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": pod}}}]}}
                },
            }
        ],
        **plan.deadline(),
    }


def check(config: JobConfig) -> None:
    """Raise ConfigError for what a TrainJob cannot say."""
    if config.elastic == "yes":
        raise ConfigError("A TrainJob cannot be elastic", fix="Use the launcher pytorchjob, or set elastic to no.")
    if config.priority_class:
        raise ConfigError(
            "A TrainJob cannot set the priority class of its pods",
            fix="Use the launcher pytorchjob, or name a runtime that has it.",
        )


def first(pod: Object) -> bool | None:
    """The pod with index 0 has rank 0."""
    return bool(pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index") == "0")


TRAINJOB = JobKind(
    name="TrainJob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    container=NODE,
    operator="Kubeflow Trainer (v2.2 or later)",
    job_label="jobset.sigs.k8s.io/jobset-name",
    succeeded="Complete",
    check=check,
    spec=spec,
    first=first,
)
