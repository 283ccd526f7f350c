"""The training operators, Kueue and the scheduler at work on pods of the product's image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testcluster.access import Access
from testcluster.pods import container, pod, pod_spec, pytorch_job

# torchrun takes the topology from the PET_* variables that the operators set: no flags.
REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {value.item()}", flush=True)
dist.destroy_process_group()
"""
TORCHRUN = ["torchrun", "--no-python", "python3", "-c", REDUCE]
SMALL = {"resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}}
START_SECONDS = 240.0  # two processes import PyTorch beside everything else


def test_pytorchjob_of_two_pods_reduces_over_the_network(cluster: Access, namespace: str):
    cluster.apply(namespace, pytorch_job("reduce", cluster.image, TORCHRUN, **SMALL))
    cluster.wait_for_condition(namespace, "pytorchjob", "reduce", "Succeeded", START_SECONDS)
    # The job succeeds with its master; every rank must have.
    for role, rank in (("master", 0), ("worker", 1)):
        cluster.wait_for_pod(namespace, f"reduce-{role}-0", "Succeeded")
        assert f"rank {rank} of 2: 3.0" in cluster.logs(namespace, f"reduce-{role}-0", "--container=pytorch")


def test_pytorchjob_with_a_wrong_container_name_is_refused(cluster: Access, namespace: str):
    job = pytorch_job("wrong", cluster.image, TORCHRUN)
    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        replica["template"]["spec"]["containers"][0]["name"] = "main"
    with pytest.raises(RuntimeError, match="container with name pytorch"):
        cluster.apply(namespace, job)


def test_trainjob_of_two_nodes_reduces_over_the_network(cluster: Access, namespace: str):
    cluster.apply(namespace, _runtime(cluster.image), _train_job("reduce"))
    cluster.wait_for_condition(namespace, "trainjob", "reduce", "Complete", START_SECONDS)
    pods = cluster.get(namespace, "pods", "--selector=jobset.sigs.k8s.io/jobset-name=reduce")["items"]
    logs = [cluster.logs(namespace, item["metadata"]["name"]) for item in pods]
    assert sorted(line for log in logs for line in log.splitlines() if "of 2" in line) == ["rank 0 of 2: 3.0", "rank 1 of 2: 3.0"]


def _runtime(image: str) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {"template": {"spec": pod_spec(container("node", image, ["true"]))}},
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": "torch"},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [{"name": "node", "template": template}]}},
        },
    }


def _train_job(name: str) -> dict[str, Any]:
    trainer = {"numNodes": 2, "numProcPerNode": 1, "command": TORCHRUN, "resourcesPerNode": SMALL["resources"]}
    runtime = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "torch"}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": runtime, "trainer": trainer},
    }


@pytest.fixture
def queue(cluster: Access, namespace: str):
    """A function that makes the namespace's queue `training`, or changes its CPU quota."""
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ResourceFlavor", "metadata": {"name": namespace}}
    local = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "LocalQueue",
        "metadata": {"name": "training"},
        "spec": {"clusterQueue": namespace},
    }

    def quota(cpu: str) -> None:
        flavors = [
            {"name": namespace, "resources": [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": "64Gi"}]}
        ]
        spec = {"namespaceSelector": {}, "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": flavors}]}
        whole = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec}
        cluster.apply(namespace, flavor, whole, local)

    yield quota
    for kind in ("clusterqueue", "resourceflavor"):
        cluster.kubectl("delete", kind, namespace, "--wait=false")


def test_queue_holds_a_job_until_there_is_quota(cluster: Access, namespace: str, queue: Callable[[str], None]):
    queue("50m")
    job = pytorch_job("queued", cluster.image, ["true"], labels={"kueue.x-k8s.io/queue-name": "training"}, **SMALL)
    cluster.apply(namespace, job)
    cluster.wait_for_condition(namespace, "pytorchjob", "queued", "Suspended")
    said = cluster.wait_for("the queue's word", lambda: _reserved(cluster, namespace))
    assert "insufficient quota for cpu" in said
    assert cluster.get(namespace, "pods")["items"] == []

    queue("8")
    cluster.wait_for_condition(namespace, "pytorchjob", "queued", "Succeeded", START_SECONDS)


def _reserved(cluster: Access, namespace: str) -> str:
    for workload in cluster.get(namespace, "workloads")["items"]:
        for condition in workload.get("status", {}).get("conditions", []):
            if condition["type"] == "QuotaReserved":
                return str(condition["message"])
    return ""


def test_scheduler_says_when_the_gpus_are_used_up(cluster: Access, namespace: str, gpus: Callable[[int], None]):
    gpus(2)

    def ask(name: str, count: int) -> None:
        limits = {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}
        cluster.apply(namespace, pod(name, pod_spec(container("main", cluster.image, ["sleep", "600"], **limits))))

    ask("first", 2)
    cluster.wait_for_pod(namespace, "first", "Running")
    ask("second", 1)
    assert "Insufficient nvidia.com/gpu" in cluster.wait_for("the scheduler's word", lambda: _unscheduled(cluster, namespace))


def _unscheduled(cluster: Access, namespace: str) -> str:
    conditions = cluster.get(namespace, "pod", "second")["status"].get("conditions", [])
    return next((item["message"] for item in conditions if item["type"] == "PodScheduled" and item["status"] == "False"), "")
