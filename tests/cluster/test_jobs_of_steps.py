"""Compiled pipelines whose training is a job of its own: from a script of CI to the end, and ended in every way in the middle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from ci_examples import ROOT, github, gitlab, shell
from drrho_clip.models import create_model, load_model, save_export
from drrho_clip.storage import Store, layout
from drrho_clip.studies.results import StudyResult
from drrho_clip.training import find_summary
from kfp_stand_in import Execution, StandIn
from launching import create_runtime, jobs_of, working
from pod_runner import PodRunner
from submitting import STEPS, artifacts_of, events, execution_of, may_be_root, parameters, running, study_parameters
from testcluster.access import S3, Access

Drrho = Callable[..., subprocess.CompletedProcess[str]]
LAUNCHER_TIMEOUT = 60  # seconds: another pod of the step has to come in this time
JOB = {"train_node_cpu": "700m", "train_node_memory": "2Gi"}


@pytest.mark.parametrize(("kind", "job"), [("pytorchjob", github), ("trainjob", gitlab)], ids=["pytorchjob", "trainjob"])
def test_a_script_of_ci_trains_on_two_pods(
    kind: str, job: Any, cluster: Access, s3: S3, server: StandIn, runner: PodRunner, store: Store, installed: str
):
    """What examples/ci/ starts, to the end: its steps, its artifacts, and what its pods may do and show."""
    create_runtime(cluster)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export("public"))
    variables, (command,) = job()
    variables |= {"KFP_ENDPOINT": server.url, "DRRHO_IMAGE": cluster.image}
    steered = {"reference_model": "run:public", "train_method": "drrho", "train_log_steps": "1"}
    more = parameters(store, s3, train_launcher=kind, train_nodes="2", **steered, **JOB)
    done = shell(" ".join([command, "--every 1", *more]), variables, ROOT)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["step"] for event in told if event.get("step") and event["state"] == "SUCCEEDED"] == STEPS

    execution = execution_of(server)
    run = str(execution.parameters["run"])
    summary = find_summary(run, store)
    assert summary is not None
    assert (summary.world_size, summary.samples_seen) == (2, 96)
    steps = [json.loads(line)["step"] for line in store.read(layout.run_metrics(run)).decode().splitlines()]
    assert steps == list(range(1, 7))
    assert load_model(f"run:{run}", store).identity.architecture == "drrho-nano"
    for key in (layout.evaluation(run, "scenes", "heldout"), layout.report(run)):
        assert store.head(key) is not None
    artifacts = artifacts_of(s3, execution)
    (page,) = (content for key, content in artifacts.items() if key.endswith("/page"))
    assert page.lstrip().lower().startswith(b"<!doctype html")
    (output,) = (
        json.loads(content) for key, content in artifacts.items() if key.startswith("evaluate/") and key.endswith(".json")
    )
    scores = output["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert {"image_to_text_recall_at_1", "zero_shot_top_1"} <= set(scores)

    steps_pods = runner.pods(execution)
    log = runner.log(execution.pod("train"))
    assert [line["step"] for line in events(log, "step")] == steps, "the step's log is the training's, every line once"
    assert len(steps_pods) == len(STEPS)
    owner = cluster.get(installed, "configmap", execution.workflow)["metadata"]["uid"]
    (job_object,) = jobs_of(cluster, installed, kind)
    owned = [*(pod.metadata.owner_references[0].uid for pod in steps_pods), job_object["metadata"]["ownerReferences"][0]["uid"]]
    assert set(owned) == {owner}
    pods = cluster.get(installed, "pods")["items"]
    assert len(pods) > len(STEPS), "the operator may have removed one of the two that trained"
    assert may_be_root(pods) == []
    shown = json.dumps(cluster.get(installed, f"pods,configmaps,events,{kind}s")) + done.stdout + done.stderr
    shown += "".join(cluster.logs(installed, pod["metadata"]["name"], "--all-containers") for pod in pods)
    assert s3.secret_key not in shown
    assert s3.secret_key.encode() not in b"".join(artifacts.values())


def test_every_run_of_a_study_is_a_job_of_its_own(
    cluster: Access, s3: S3, server: StandIn, runner: PodRunner, store: Store, drrho: Drrho, installed: str
):
    study = {"study_methods": "openclip,fastclip", "study_seeds": "4", "train_launcher": "pytorchjob", "train_nodes": "2"}
    small = study_parameters(store, s3, **study, train_node_cpu="400m", train_node_memory="2Gi")
    done = drrho("submit", "comparison", "--image", cluster.image, "--wait", "--every", "1", *small)
    assert done.returncode == 0, done.stderr
    name = "scenes-comparison"
    runs = [f"{name}-fastclip-s4", f"{name}-openclip-s4"]
    assert sorted(job["metadata"]["labels"]["drrho-clip/run"] for job in jobs_of(cluster, installed, "pytorchjob")) == runs
    for run in runs:
        summary = find_summary(run, store)
        assert summary is not None
        assert (summary.world_size, summary.samples_seen) == (2, 96)
    result = StudyResult.model_validate_json(store.read(layout.study_result(name, "json")))
    assert (sorted(run.run for arm in result.arms for run in arm.runs), result.missing) == (runs, ())
    execution = execution_of(server)
    pages = [content for key, content in artifacts_of(s3, execution).items() if key.endswith("/page")]
    assert [page.decode() for page in pages] == [store.read(layout.study_result(name, "html")).decode()]
    assert len(runner.pods(execution)) == len(["ingest", "reference", "plan-study", *runs, "study-report"])


@pytest.fixture
def training(
    cluster: Access, s3: S3, server: StandIn, runner: PodRunner, store: Store, drrho: Drrho, installed: str
) -> tuple[Execution, str]:
    """A run that trains in a job without an end: its execution, and the pod of its step `train`."""
    endless = parameters(
        store,
        s3,
        train_launcher="pytorchjob",
        train_samples="16000000",
        train_log_steps="1",
        train_launcher_timeout=str(LAUNCHER_TIMEOUT),
        **JOB,
    )
    done = drrho("submit", "steering", "--image", cluster.image, *endless)
    assert done.returncode == 0, done.stderr
    execution = execution_of(server)
    return execution, training_step(cluster, runner, execution)


def training_step(cluster: Access, runner: PodRunner, execution: Execution) -> str:
    """Wait until the run's step `train` says that its job trains; the name of the step's pod."""

    def look() -> str | None:
        name = execution.pod("train")
        return name if name in running(runner, execution) and events(runner.log(name), "step") else None

    return cluster.wait_for("the training", look, 400)


STOP = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/stat") as file:
        if file.read().rpartition(")")[2].split()[1] == "1":
            os.killpg(int(pid), signal.SIGSTOP)
"""
"""Stops the step below the launcher of the pipelines, as a machine does that hangs: it hears no SIGTERM."""


def stop(cluster: Access, namespace: str, pod: str) -> None:
    cluster.kubectl(f"--namespace={namespace}", "exec", pod, "--container=main", "--", "python3", "-c", STOP)


def test_a_cancelled_run_frees_what_its_job_held(cluster: Access, drrho: Drrho, installed: str, training: tuple[Execution, str]):
    execution, _ = training
    assert drrho("cancel", execution.run_id).returncode == 0
    cluster.wait_for("no job", lambda: not jobs_of(cluster, installed, "pytorchjob"), 30)
    cluster.wait_for("no pod that trains", lambda: not working(cluster, installed), 90)


def test_the_job_of_a_step_that_hangs_goes_on_with_its_successor_and_ends_without_one(
    cluster: Access, runner: PodRunner, drrho: Drrho, installed: str, training: tuple[Execution, str]
):
    """A hanging pod is replaced: the job never notices. Cancelled while it hangs: the job ends itself."""
    execution, first = training
    (before,) = jobs_of(cluster, installed, "pytorchjob")
    stop(cluster, installed, first)
    cluster.kubectl(f"--namespace={installed}", "delete", "pod", first, "--grace-period=1")
    cluster.wait_for("the pod's end", lambda: first not in running(runner, execution))
    second = training_step(cluster, runner, execution)
    assert second != first
    assert events(runner.log(second), "job_found")
    (after,) = jobs_of(cluster, installed, "pytorchjob")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]

    stop(cluster, installed, second)
    assert drrho("cancel", execution.run_id).returncode == 0
    cluster.wait_for("no pod that trains", lambda: not working(cluster, installed), LAUNCHER_TIMEOUT + 15 + 90)


def test_the_job_goes_with_the_owner_of_the_run(
    cluster: Access, runner: PodRunner, installed: str, training: tuple[Execution, str]
):
    execution, _ = training
    assert working(cluster, installed)
    runner.delete_owner(execution)
    cluster.wait_for("no job", lambda: not jobs_of(cluster, installed, "pytorchjob"), 60)
    cluster.wait_for("no pod at all", lambda: not cluster.get(installed, "pods")["items"], 120)
