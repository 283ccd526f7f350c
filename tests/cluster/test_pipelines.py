"""Compiled pipelines on the cluster: every step a pod, started and watched as a user does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp
import pytest
from kfp import compiler

import small_pipelines
from drrho_clip.models import load_model
from drrho_clip.storage import Store, layout, open_store
from drrho_pipelines.server.address import Address
from drrho_pipelines.server.connection import Server
from drrho_pipelines.server.waiting import wait_for
from kfp_stand_in import Execution, StandIn
from pod_runner import PodRunner
from testcluster.access import S3, Access

RUN = {
    "dataset": "scenes",
    "data_source": "scenes",
    "data_samples": "96",
    "data_workers": "1",
    "data_heldout_fraction": "0.25",
    "train_architecture": "drrho-nano",
    "train_batch_size": "16",
    "train_samples": "96",
    "train_warmup_steps": "1",
    "report_gallery": "2",
    **{f"{step}_cpu": "50m" for step in ("data", "reference", "train", "evaluate", "report")},
}


@pytest.fixture
def runner(cluster: Access, s3: S3, namespace: str) -> PodRunner:
    return PodRunner(cluster, s3, namespace)


@pytest.fixture
def server(runner: PodRunner) -> Iterator[StandIn]:
    """The stand-in for the pipelines' server, whose runs are pods of the test's namespace."""
    with StandIn(runner) as stand_in:
        yield stand_in


@pytest.fixture
def store(s3: S3, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"{s3.store_uri}/{namespace}")


Drrho = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def drrho(server: StandIn, tmp_path: Path) -> Drrho:
    """`drrho pipeline ...` in a process without any way to the store: only the pods have one."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.run(
            [sys.executable, "-m", "drrho_pipelines.cli", "pipeline", *arguments],
            env=environment | {"KFP_ENDPOINT": server.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def parameters(store: Store, s3: S3, **more: str) -> list[str]:
    values = RUN | {"store": store.uri, "store_endpoint": s3.endpoint} | more
    return [word for name, value in values.items() for word in ("-p", f"{name}={value}")]


def execution_of(server: StandIn) -> Execution:
    (execution,) = server.objects.executions.values()
    return execution


def test_steering_runs_to_the_end(
    cluster: Access, s3: S3, server: StandIn, runner: PodRunner, store: Store, drrho: Drrho, namespace: str
):
    """The compiled pipeline, submitted from outside; its steps, its artifacts, and what its pods were allowed."""
    done = drrho("submit", "steering", "--image", cluster.image, "--wait", "--every", "1", *parameters(store, s3))
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    ended = [event["step"] for event in told if event.get("step") and event["state"] == "SUCCEEDED"]
    assert ended == ["ingest", "reference", "train", "evaluate", "report"]

    execution = execution_of(server)
    encoder = load_model("run:steering", store)
    assert encoder.identity.architecture == "drrho-nano"
    for key in (layout.evaluation("steering", "scenes", "heldout"), layout.report("steering")):
        assert store.head(key) is not None
    artifacts = artifacts_of(store, s3, execution)
    (page,) = (content for key, content in artifacts.items() if key.endswith("/page"))
    assert page.lstrip().lower().startswith(b"<!doctype html")
    (output,) = (
        json.loads(content) for key, content in artifacts.items() if key.startswith("evaluate/") and key.endswith(".json")
    )
    scores = output["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert {"image_to_text_recall_at_1", "zero_shot_top_1"} <= set(scores)

    pods = runner.pods(execution)
    assert len(pods) == 5
    owner = cluster.get(namespace, "configmap", execution.workflow)["metadata"]["uid"]
    for pod in pods:
        assert [reference.uid for reference in pod.metadata.owner_references] == [owner]
        assert pod.status.phase == "Succeeded"
    everything = json.dumps(cluster.get(namespace, "pods,configmaps,events")) + done.stdout + done.stderr
    everything += "".join(runner.log(pod.metadata.name) for pod in pods)
    assert s3.secret_key not in everything
    assert s3.secret_key.encode() not in b"".join(artifacts.values())


def artifacts_of(store: Store, s3: S3, execution: Execution) -> dict[str, bytes]:
    """What the steps left among the pipeline's artifacts, by key."""
    name = execution.spec["pipelineInfo"]["name"]
    kept = open_store(f"{s3.store_uri}/v2/artifacts/{name}/{execution.run_id}")
    return {info.key: kept.read(info.key) for info in kept.list()}


def test_a_step_that_fails_is_told_with_its_own_reason(cluster: Access, s3: S3, store: Store, drrho: Drrho):
    wrong = parameters(store, s3, data_source="folder", data_path="/nowhere")
    done = drrho("submit", "steering", "--image", cluster.image, "--wait", "--every", "1", *wrong)
    assert done.returncode == 1, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("The step 'ingest' failed: The folder does not exist (/nowhere)")
    assert "  ingest | " in done.stderr


def test_a_lost_pod_is_started_again_and_a_terminated_run_ends(
    cluster: Access, s3: S3, server: StandIn, runner: PodRunner, store: Store, drrho: Drrho, namespace: str
):
    done = drrho("submit", "steering", "--image", cluster.image, *parameters(store, s3, data_samples="500000"))
    assert done.returncode == 0, done.stderr
    execution = execution_of(server)
    (first,) = cluster.wait_for("the first pod", lambda: running(runner, execution))
    cluster.kubectl("--namespace", namespace, "delete", "pod", first, "--grace-period=1")
    (second,) = cluster.wait_for("another pod", lambda: [name for name in running(runner, execution) if name != first])

    assert drrho("cancel", execution.run_id).returncode == 0
    waited = drrho("status", execution.run_id, "--wait", "--every", "0.5")
    assert (waited.returncode, waited.stderr.splitlines()[-1].split(" (")[0]) == (1, "The run was cancelled")
    pod = cluster.wait_for_pod(namespace, second, "Failed")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] in (143, 137)


def running(runner: PodRunner, execution: Execution) -> list[str]:
    pods = runner.pods(execution)
    return [pod.metadata.name for pod in pods if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp]


def test_settings_conditions_loops_and_artifacts(
    cluster: Access, server: StandIn, runner: PodRunner, namespace: str, tmp_path: Path
):
    """What the pod runner makes of a compiled pipeline, through kfp's client as anybody uses it."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "words"}, "stringData": {"word": "whisper"}}
    cluster.apply(namespace, secret)
    execution = start(server, small_pipelines.small, tmp_path)
    wait_for(Server(Address(host=server.url)), execution.run_id, every=0.5, timeout=600)
    pods = {pod.metadata.name: pod for pod in runner.pods(execution)}
    logs = {name: runner.log(name) for name in pods}
    assert len(pods) == 4  # write, two turns of read, settings; the second condition is false
    assert [name for name, log in logs.items() if "turn 0: hello from minio://" in log]
    assert [name for name, log in logs.items() if "turn 1: hello from minio://" in log]
    (shown,) = (name for name, log in logs.items() if "word=whisper" in log)
    assert f"texts=['h', 'e'] word=whisper node={cluster.node} uid=10001 scratch=True" in logs[shown]
    pod = pods[shown]
    assert (pod.metadata.labels["team"], pod.metadata.annotations["sidecar.istio.io/inject"]) == ("clip", "false")
    assert pod.spec.node_selector == {"kubernetes.io/os": "linux"}
    assert [toleration.key for toleration in pod.spec.tolerations if toleration.key == "gpu"]
    asked = pod.spec.containers[0].resources
    assert (asked.requests["cpu"], asked.limits["memory"]) == ("50m", "256Mi")


def test_a_step_that_hears_nothing_is_killed_after_the_moment_that_the_server_gives(
    cluster: Access, server: StandIn, runner: PodRunner, namespace: str, tmp_path: Path
):
    execution = start(server, small_pipelines.waits, tmp_path)
    (name,) = cluster.wait_for("the pod", lambda: running(runner, execution))
    cluster.wait_for("its word", lambda: "ready" in runner.log(name))
    before = datetime.now().timestamp()
    kfp_client(server).terminate_run(execution.run_id)
    cluster.wait_for("the end of the run", lambda: execution.ended, 30)
    pod = cluster.wait_for_pod(namespace, name, "Failed")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    assert datetime.now().timestamp() - before < 60


def kfp_client(server: StandIn) -> Any:
    return kfp.Client(host=server.url, namespace="")


def start(server: StandIn, pipeline: Any, folder: Path) -> Execution:
    file = str(folder / "pipeline.yaml")
    compiler.Compiler().compile(pipeline, file)
    kfp_client(server).create_run_from_pipeline_package(file, experiment_name="tests")
    return execution_of(server)
