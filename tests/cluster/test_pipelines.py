"""Compiled pipelines on the cluster: every step a pod, started and watched as a user does it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp
from kfp import compiler

import small_pipelines
from drrho_clip.storage import Store
from drrho_pipelines.server.address import Address
from drrho_pipelines.server.connection import Server
from drrho_pipelines.server.waiting import wait_for
from kfp_stand_in import Execution, StandIn
from pod_runner import PodRunner
from submitting import execution_of, parameters, running
from testcluster.access import S3, Access

Drrho = Callable[..., subprocess.CompletedProcess[str]]


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
