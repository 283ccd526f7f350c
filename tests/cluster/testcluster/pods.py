"""Objects that several tests need: pods that meet Pod Security "restricted", and the jobs made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What "restricted" asks of a container and of a pod; the user is a number, as kubelet cannot know a name's.
CONTAINER_SECURITY: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY: dict[str, Any] = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}


def container(name: str, image: str, command: Sequence[str], **fields: Any) -> dict[str, Any]:
    """A container that "restricted" admits; `fields` are further fields of it."""
    return {"name": name, "image": image, "command": list(command), "securityContext": CONTAINER_SECURITY, **fields}


def pod_spec(*containers: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A pod's spec that "restricted" admits."""
    return {"restartPolicy": "Never", "securityContext": POD_SECURITY, "containers": list(containers), **fields}


def pod(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A pod."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": dict(spec)}


def pytorch_job(
    name: str, image: str, command: Sequence[str], *, workers: int = 1, labels: Mapping[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    """A PyTorchJob of one master and `workers` workers, one process each; `fields` are further fields of the container."""
    template = {"spec": pod_spec(container("pytorch", image, command, **fields))}
    template["spec"].pop("restartPolicy")  # the job's to set
    replica = {"restartPolicy": "Never", "template": template}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {
            "nprocPerNode": "1",
            "runPolicy": {"cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {"Master": {"replicas": 1, **replica}, "Worker": {"replicas": workers, **replica}},
        },
    }
