"""Training as PyTorchJob and TrainJob: to the end, interrupted in every way, and not started at all for a named reason."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from drrho_clip.models import load_model
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training import TrainConfig, find_summary, train
from drrho_clip.training.checkpoint import Checkpoints
from drrho_components.launch import JobConfig, launcher_for
from launching import ENDLESS, JOB, RULES, START_SECONDS, TRAINING, Step, create_runtime, make_account, pods, working
from run_records import untimed_records
from testcluster.access import S3, Access

STEPS = 500  # enough for a machine that ends pods slowly and trains fast


@pytest.fixture(scope="session")
def data(s3: S3, scenes_folder: Path) -> Iterator[Store]:
    """A store on the server with a dataset and a reference; this process's environment leads to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        store = open_store(f"{s3.store_uri}/launchers")
        source = open_store(scenes_folder)
        for info in source.list():
            store.write(info.key, source.read(info.key))
        yield store


@pytest.fixture
def step(cluster: Access, namespace: str, s3: S3, data: Store, tmp_path: Path) -> Iterator[Callable[..., Step]]:
    """A function that starts the step `train`, which may do what RULES say and no more."""
    kubeconfig = make_account(cluster, namespace, tmp_path, "launcher", RULES)
    started: list[Step] = []

    def start(run: str, **changed: Any) -> Step:
        given = {"store": data.uri, "store_endpoint": s3.endpoint, "image": cluster.image, "run": run}
        arguments = {**given, **TRAINING, **JOB, **changed}
        started.append(Step(arguments.pop("kubeconfig", kubeconfig), s3, tmp_path, arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()


def new_run() -> str:
    return f"run-{uuid.uuid4().hex[:6]}"


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_two_pods_train_to_the_end(kind: str, cluster: Access, namespace: str, step, data: Store, s3: S3, runtime: None):
    run = new_run()
    one = step(run, launcher=kind, samples=32 * 30)
    one.wait_for("two pods", lambda: len(one.events("pod_runs")) == 2)
    for pod in pods(cluster, namespace):
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        user = cluster.kubectl(f"--namespace={namespace}", "exec", name, f"--container={container}", "--", "id", "-u")
        assert user.strip() == "10001"
    assert one.end() == 0, one.text[-5000:]
    summary = find_summary(run, data)
    assert summary is not None
    assert (summary.world_size, summary.samples_seen) == (2, 32 * 30)
    assert [line["step"] for line in one.events("step")] == list(range(1, 31)), "every line once"
    load_model(f"run:{run}", data)
    shown = cluster.kubectl(f"--namespace={namespace}", "get", f"pods,events,{kind}s", "--output=yaml")
    logs = "".join(cluster.logs(namespace, pod["metadata"]["name"], "--all-containers") for pod in pods(cluster, namespace))
    assert s3.secret_key not in shown + logs + one.text
    assert working(cluster, namespace) == []


@pytest.fixture(scope="session")
def runtime(cluster: Access) -> None:
    create_runtime(cluster)


def test_a_terminated_step_takes_its_job_with_it(cluster: Access, namespace: str, step):
    """As Kubeflow Pipelines does it: SIGTERM, and SIGKILL 0.8 s later."""
    one = step(new_run(), samples=ENDLESS)
    one.wait_for_step(3)
    one.process.send_signal(signal.SIGTERM)
    time.sleep(0.8)
    one.kill()
    assert cluster.get(namespace, "pytorchjobs")["items"] == []
    cluster.wait_for("no pod", lambda: not pods(cluster, namespace), 90)


def test_a_job_whose_launcher_is_lost_ends_itself_and_a_new_launcher_goes_on(cluster: Access, namespace: str, step, data: Store):
    run = new_run()
    one = step(run, samples=32 * 400, launcher_timeout=15, checkpoint_steps=1000)
    one.wait_for_step(3)
    one.kill()
    cluster.wait_for("no working pod", lambda: not working(cluster, namespace), 15 + 15 + 60)
    assert {pod["status"]["phase"] for pod in pods(cluster, namespace)} == {"Succeeded"}
    saved = Checkpoints(data, run, 2).steps()
    if find_summary(run, data) is None:  # or the machine was quick enough to train to the end
        assert saved
        again = step(run, samples=32 * 400, launcher_timeout=15, checkpoint_steps=1000)
        assert again.end() == 0, again.text[-5000:]
        assert again.events("job_replaced")[0]["reason"] == "succeeded"
        assert again.events("resumed")[0]["step"] == saved[0]
    assert [row["step"] for row in untimed_records(data, run)] == list(range(1, 401))


def test_a_launcher_that_is_started_again_takes_up_the_same_job(cluster: Access, namespace: str, step, data: Store):
    run = new_run()
    one = step(run, samples=32 * 300)
    one.wait_for_step(3)
    before = {pod["metadata"]["uid"] for pod in pods(cluster, namespace)}
    one.kill()
    again = step(run, samples=32 * 300)
    assert again.end() == 0, again.text[-5000:]
    assert again.events("job_found")
    after = {pod["metadata"]["uid"] for pod in pods(cluster, namespace)}
    assert after, "one of them has ended by itself"
    assert after <= before, "the operator removes what still runs when the first has ended"
    assert find_summary(run, data) is not None


KILL_TRAINING = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if b"drrho_clip.training" in file.read() and pid not in ("1", str(os.getpid())):
            os.kill(int(pid), signal.SIGKILL)
"""


@pytest.mark.parametrize("elastic", ["no", "yes"])
def test_lost_workers_change_nothing_of_the_result(elastic: str, cluster: Access, namespace: str, step, data: Store, undisturbed):
    run = new_run()
    one = step(run, samples=32 * STEPS, elastic=elastic)
    one.wait_for_step(12)
    name = next(line["pod"] for line in one.events("pod_runs") if "worker" in line["pod"])
    cluster.kubectl(f"--namespace={namespace}", "exec", name, "--container=pytorch", "--", "python3", "-c", KILL_TRAINING)
    if elastic == "no":
        one.wait_for("the end of the pod's container", lambda: one.events("training_restarts"))
    resumed = one.wait_for("going on", lambda: one.events("resumed"))[-1]["step"]
    one.wait_for_step(resumed + 12)
    cluster.kubectl(f"--namespace={namespace}", "delete", "pod", name, "--wait=false")
    assert one.end(2 * START_SECONDS) == 0, one.text[-5000:]
    assert len(one.events("resumed")) >= 2, one.text[-8000:]
    assert untimed_records(data, run) == untimed_records(data, undisturbed)
    model, whole = (load_model(f"run:{name}", data).model.state_dict() for name in (run, undisturbed))
    assert all(torch.equal(model[key], value) for key, value in whole.items())


@pytest.fixture(scope="session")
def undisturbed(data: Store) -> str:
    """Name of a run on two processes that nobody disturbed."""
    config = TrainConfig(run="undisturbed", samples=32 * STEPS, **TRAINING)
    train(config, data, launch=launcher_for("local", JobConfig(processes=2)).run)
    return "undisturbed"


def test_too_little_memory_is_called_so(step, namespace: str, cluster: Access, data: Store):
    run = new_run()
    reason = step(run, samples=ENDLESS, nodes=1, node_memory="200Mi", restarts=0).reason()
    assert "ran out of memory (OOMKilled" in reason
    assert "limit 200Mi" in reason
    assert "Raise node_memory" in reason
    cluster.wait_for("no pod", lambda: not pods(cluster, namespace), 90)


def test_an_error_of_the_training_is_the_error_of_the_step(step, data: Store, namespace: str, cluster: Access):
    """The worker and the master both stop; neither is tried again, and what they said last is kept."""
    run = new_run()
    one = step(run, samples=ENDLESS, learning_rate=1e30, warmup_steps=0)
    reason = one.reason()
    assert "not finite" in reason
    assert "Lower learning_rate" in reason
    assert one.events("training_restarts") == []
    logs = {info.key: data.read(info.key).decode() for info in data.list(f"{layout.run(run)}/logs/")}
    assert any("not finite" in text for text in logs.values()), list(logs)
    cluster.wait_for("no pod", lambda: not pods(cluster, namespace), 90)


def test_an_image_that_is_not_there_is_named(step, namespace: str, cluster: Access):
    one = step(new_run(), samples=ENDLESS, nodes=1, image="drrho.test/none:1", start_timeout=20)
    reason = one.reason()
    assert "0 of 1 pods run after 20 s" in reason
    assert "drrho.test/none:1" in reason
    assert "ErrImagePull" in reason
    assert one.events("pod_waits")
    cluster.wait_for("no pod", lambda: not pods(cluster, namespace), 90)


def test_gpus_that_are_not_there_are_said_by_the_scheduler(step, gpus: Callable[[int], None]):
    gpus(1)
    reason = step(new_run(), samples=ENDLESS, nodes=1, node_gpus="2", start_timeout=10).reason()
    assert "Insufficient nvidia.com/gpu" in reason


def test_a_missing_secret_is_said_before_anything_is_made(step, namespace: str, cluster: Access, data: Store):
    run = new_run()
    reason = step(run, samples=ENDLESS, store_secret="no-such-secret").reason()
    assert "There is no secret 'no-such-secret' with the keys accesskey and secretkey" in reason
    assert cluster.get(namespace, "pytorchjobs")["items"] == []
    assert list(data.list(layout.run(run))) == []


@pytest.mark.parametrize("left_out", range(4))
def test_a_missing_right_is_said_before_anything_is_made(
    left_out: int, step, cluster: Access, namespace: str, tmp_path: Path, data: Store
):
    """Each of the rules for PyTorchJobs and pods in turn: none is there for nothing."""
    needed = [rule for rule in RULES if rule["resources"][0] in ("pytorchjobs", "pods", "pods/log")]
    if left_out == 3:
        rules, missing = [{**needed[0], "verbs": ["create", "get"]}, *needed[1:]], "delete pytorchjobs.kubeflow.org"
    else:
        rules = [rule for number, rule in enumerate(needed) if number != left_out]
        missing = needed[left_out]["resources"][0]
    kubeconfig = make_account(cluster, namespace, tmp_path, "lacking", rules)
    run = new_run()
    reason = step(run, samples=ENDLESS, kubeconfig=kubeconfig).reason()
    assert missing in reason
    assert "may not" in reason
    assert f"in namespace '{namespace}'" in reason
    assert list(data.list(layout.run(run))) == []


def test_a_cluster_without_the_operator_is_said_so(step, cluster: Access, data: Store):
    def served(value: str) -> None:
        patch = f'[{{"op": "replace", "path": "/spec/versions/0/served", "value": {value}}}]'
        cluster.kubectl("patch", "crd", "pytorchjobs.kubeflow.org", "--type=json", f"--patch={patch}")
        there = value == "true"
        cluster.wait_for("the API", lambda: (cluster.run_kubectl("get", "pytorchjobs", "-A").returncode == 0) is there)

    served("false")
    try:
        reason = step(new_run(), samples=ENDLESS).reason()
    finally:
        served("true")
    assert "This cluster knows no PyTorchJob" in reason
    assert "training operator" in reason


def test_a_job_waits_in_its_queue_and_says_why(step, cluster: Access, namespace: str, data: Store):
    api = {"apiVersion": "kueue.x-k8s.io/v1beta1"}

    def quota(cpu: str) -> None:
        resources = [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": "64Gi"}]
        group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": namespace, "resources": resources}]}
        cluster.apply(
            namespace,
            {**api, "kind": "ResourceFlavor", "metadata": {"name": namespace}},
            {
                **api,
                "kind": "ClusterQueue",
                "metadata": {"name": namespace},
                "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
            },
            {**api, "kind": "LocalQueue", "metadata": {"name": "training"}, "spec": {"clusterQueue": namespace}},
        )

    quota("50m")
    try:
        run = new_run()
        one = step(run, samples=32 * 3, nodes=1, queue="training", start_timeout=300, warmup_steps=0)
        one.wait_for("the queue's word", lambda: any("insufficient" in line["reason"] for line in one.events("job_queued")))
        assert pods(cluster, namespace) == []
        quota("8")
        assert one.end() == 0, one.text[-5000:]
        assert find_summary(run, data) is not None
    finally:
        for kind in ("clusterqueue", "resourceflavor"):
            cluster.kubectl("delete", kind, namespace, "--wait=false")
