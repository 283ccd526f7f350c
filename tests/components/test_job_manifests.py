"""The jobs that the launchers make, as the operators get them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from drrho_clip.errors import LaunchError
from drrho_components.launch import JobConfig
from drrho_components.launch.plan import Plan, label_value
from drrho_components.launch.pytorchjob import PYTORCHJOB
from drrho_components.launch.trainjob import TRAINJOB

ENVIRONMENT = {"AWS_ENDPOINT_URL": "http://weed:8333", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_REGION": "here"}
OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
GPU = {
    "nodes": 3,
    "processes": 8,
    "node_cpu": "64",
    "node_memory": "512Gi",
    "node_gpus": "8",
    "gpu_tolerations": '[{"key": "gpu", "operator": "Exists"}]',
    "gpu_node_selector": '{"pool": "a100"}',
    "queue": "team",
    "service_account": "trainer",
    "store_secret": "keys",
    "image_pull_secret": "registry",
    "labels": '{"team": "vision"}',
    "deadline": 3600,
}


def plan(values: dict[str, Any], **changed: Any) -> Plan:
    given: dict[str, Any] = {
        "run": "my_Run",
        "store": "s3://b/p",
        "namespace": "ns",
        "image": "drrho:1",
        "command": ["--store", "s3://b/p", "--run", "my_Run"],
        "shm": 2**30,
        "kfp_run": "k",
        "owner": OWNER,
        "environment": ENVIRONMENT,
    }
    return Plan(config=JobConfig.parse(values), **{**given, **changed})


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates, put together from where each kind has the parts."""
    if job["kind"] == "PyTorchJob":
        return [replica["template"] for replica in job["spec"]["pytorchReplicaSpecs"].values()]
    patch = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    assert patch["name"] == "node"
    pod = json.loads(json.dumps(patch["template"]["spec"]["template"]))
    trainer = job["spec"]["trainer"]
    pod["spec"]["containers"][0] |= {
        "image": trainer["image"],
        "command": trainer["command"],
        "env": trainer["env"],
        "resources": trainer["resourcesPerNode"],
    }
    return [pod]


@pytest.mark.parametrize("kind", [PYTORCHJOB, TRAINJOB], ids=lambda kind: kind.name)
def test_pods_meet_the_restricted_level_and_ask_for_what_was_set(kind):
    job = kind.manifest(plan(GPU))
    for pod in pods(job):
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/home/drrho", "/dev/shm"}
        shm = next(volume for volume in spec["volumes"] if volume["name"] == "shm")
        assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2**30)}
        assert container["resources"]["limits"] == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        assert spec["nodeSelector"] == {"pool": "a100"}
        assert spec["serviceAccountName"] == "trainer"
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
        assert pod["metadata"]["labels"].items() >= {"app.kubernetes.io/name": "drrho-clip", "team": "vision"}.items()
        assert container["command"][2:7] == ["drrho_clip.training.torchrun", "-m", "--", "drrho_clip.training", "--store"]
        env = {item["name"]: item for item in container["env"]}
        assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "secretkey"}
        assert env["AWS_ENDPOINT_URL"]["value"] == "http://weed:8333"
        assert env["OMP_NUM_THREADS"]["value"] == "8"
    metadata = job["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert metadata["labels"]["pipeline/runid"] == "k"
    assert metadata["ownerReferences"] == [OWNER]
    assert "hush" not in json.dumps(job)


def test_a_pytorchjob_of_three_nodes_has_a_master_and_two_workers():
    spec = PYTORCHJOB.manifest(plan(GPU, metrics_port=9464))["spec"]
    assert {name: replica["replicas"] for name, replica in spec["pytorchReplicaSpecs"].items()} == {"Master": 1, "Worker": 2}
    assert {replica["restartPolicy"] for replica in spec["pytorchReplicaSpecs"].values()} == {"OnFailure"}
    assert spec["nprocPerNode"] == "8"
    policy = spec["runPolicy"]
    assert (policy["cleanPodPolicy"], policy["backoffLimit"], policy["activeDeadlineSeconds"]) == ("Running", 12, 3660)
    container = spec["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["name"] == "pytorch"
    assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]


def test_a_pytorchjob_on_a_cpu_node_asks_for_no_gpu_and_has_no_worker():
    spec = PYTORCHJOB.manifest(plan({}))["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Master"]
    container = spec["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    assert not any("valueFrom" in item for item in container["env"])
    assert "ports" not in container
    assert "activeDeadlineSeconds" not in spec["runPolicy"]


def test_an_elastic_job_has_only_workers_all_of_which_must_be_there():
    spec = PYTORCHJOB.manifest(plan({"nodes": 4, "elastic": "yes", "priority_class": "low"}))["spec"]
    assert {name: replica["replicas"] for name, replica in spec["pytorchReplicaSpecs"].items()} == {"Worker": 4}
    elastic = spec["elasticPolicy"]
    assert (elastic["minReplicas"], elastic["maxReplicas"], elastic["rdzvBackend"]) == (4, 4, "c10d")
    assert elastic["maxRestarts"] > 0
    template = spec["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["spec"]["priorityClassName"] == "low"
    assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in template["spec"]["containers"][0]["env"]


def test_a_trainjob_says_its_nodes_and_processes():
    job = TRAINJOB.manifest(plan(GPU))
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 8)


@pytest.mark.parametrize("run", ["drrho", "my_Run", "7th", "UPPER.case", "x" * 200, "-", "ä"])
def test_names_are_labels_of_dns_and_the_same_every_time(run: str):
    name = plan({}, run=run).name
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 52
    assert name == plan({}, run=run, kfp_run="other", owner=None).name
    others = [plan({}, run=run + "2").name, plan({}, run=run, store="s3://c/p").name]
    assert name not in others
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", label_value(run))
    assert label_value(run) != label_value(run + "2")


def test_a_job_is_told_from_one_with_other_settings_or_of_another_pipeline_run():
    def spec(values: dict[str, Any], **changed: Any) -> str:
        return str(PYTORCHJOB.manifest(plan(values, **changed))["metadata"]["annotations"]["drrho-clip/spec"])

    same = spec({"nodes": 2})
    assert same == spec({"nodes": 2})
    assert len({same, spec({"nodes": 3}), spec({"nodes": 2}, image="drrho:2"), spec({"nodes": 2}, kfp_run="l")}) == 4


def test_an_endpoint_with_a_password_is_refused():
    with pytest.raises(LaunchError, match="endpoint holds a password"):
        PYTORCHJOB.manifest(plan({}, environment={"AWS_ENDPOINT_URL": "http://me:hush@weed:8333"}))
