"""What pods' statuses mean: statuses as a Kubernetes 1.34 with containerd gives them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drrho_clip.errors import LaunchError, TrainingError
from drrho_clip.training.failure import PEER_LOST, STOPPED
from drrho_clip.training.launch import TORCHRUN
from drrho_components.launch import states
from drrho_components.launch.incidents import SETTLED_SECONDS, Incidents
from drrho_components.launch.states import Failure


def pod(name: str = "run-worker-0", **status: Any) -> dict[str, Any]:
    container = {"name": "pytorch", "resources": {"limits": {"memory": "4Gi"}}}
    return {"metadata": {"name": name, "uid": name}, "spec": {"nodeName": "n1", "containers": [container]}, "status": status}


def ended(
    code: int, reason: str, message: str = "", at: str = "2026-01-01T00:00:10Z", where: str = "lastState"
) -> dict[str, Any]:
    state = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at, "containerID": f"containerd://{at}"}
    now = {} if where == "state" else {"state": {"running": {}}}
    return {"name": "pytorch", "restartCount": 1, where: {"terminated": state}, **now}


OWN = json.dumps({"what": "The loss is not finite", "where": "run r", "fix": "Lower learning_rate.", "kind": "TrainingError"})
LOST = json.dumps({"what": "RuntimeError: reset", "where": "", "fix": "The others' logs say why.", "kind": PEER_LOST})
CHILD_KILLED = "E1129 21:53:54.9 17701 api.py:1002] failed (exitcode: -9) local_rank: 0 (pid: 9) of binary: /opt/venv/bin/python"
GLOO = "RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer"
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}

FAILURES: dict[str, tuple[dict[str, Any], str, str, bool]] = {
    "out of memory": (
        {"containerStatuses": [ended(137, "OOMKilled")]},
        "OOMKilled",
        "run-worker-0 ran out of memory (OOMKilled, exit code 137): limit 4Gi",
        False,
    ),
    "out of memory, a child": (
        {"containerStatuses": [ended(1, "Error", CHILD_KILLED)]},
        "OOMKilled",
        "most likely for want of memory",
        False,
    ),
    "training's own error": (
        {"containerStatuses": [ended(1, "Error", OWN)]},
        "TrainingError",
        "run-worker-0: The loss is not finite (run r)",
        True,
    ),
    "lost its peers": ({"containerStatuses": [ended(1, "Error", LOST)]}, PEER_LOST, "reset", False),
    "lost its peers, by its log": ({"containerStatuses": [ended(1, "Error", GLOO)]}, PEER_LOST, "reset by peer", False),
    "anything else": (
        {"containerStatuses": [ended(127, "StartError", "exec: torchrun: not found", where="state")]},
        "StartError",
        "pytorch ended with exit code 127: exec: torchrun: not found",
        False,
    ),
    "an init container": (
        {"initContainerStatuses": [{**ended(1, "Error", "no such host"), "name": "init-pytorch"}]},
        "Error",
        "init-pytorch ended with exit code 1: no such host",
        False,
    ),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        "Evicted",
        "low on resource: memory",
        False,
    ),
    "preempted": (
        {"conditions": [{**DISRUPTED, "reason": "PreemptionByScheduler", "message": "preempting"}]},
        "Preempted",
        "run-worker-0 left n1: preempting",
        False,
    ),
    "its node is lost": (
        {"conditions": [{**DISRUPTED, "reason": "DeletionByTaintManager", "message": "deleting due to NoExecute taint"}]},
        "NodeLost",
        "NoExecute taint",
        False,
    ),
}


def test_what_torchrun_logs_of_a_killed_process_is_all_that_it_says_and_enough(tmp_path: Path):
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    command = [sys.executable, "-m", TORCHRUN, "--standalone", "--nproc-per-node=1", str(tmp_path / "killed.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (failure,) = states.failures(pod(containerStatuses=[ended(1, "Error", done.stderr)]))
    assert failure.kind == "OOMKilled"


@pytest.mark.parametrize(("status", "kind", "what", "final"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_called_by_its_name(status: dict[str, Any], kind: str, what: str, final: bool):
    (failure,) = states.failures(pod(**status))
    assert (failure.kind, failure.final) == (kind, final)
    assert what in failure.what


def test_a_deleted_pod_is_one_failure_whatever_its_container_ended_with():
    deleted = pod(containerStatuses=[ended(1, "Error", at="2026-01-01T00:00:20Z", where="state")])
    deleted["metadata"] |= {"deletionTimestamp": "2026-01-01T00:01:15Z", "deletionGracePeriodSeconds": 60}
    (failure,) = states.failures(deleted)
    assert (failure.kind, failure.what) == ("Deleted", "run-worker-0 was deleted from outside")
    assert failure.at == "2026-01-01T00:00:15Z", "when it was asked to end, not when it has to have ended"


def test_the_most_memory_that_was_seen_is_told():
    """As training logs it on its way up; the last line may be cut off."""
    (found,) = states.failures(pod(containerStatuses=[ended(137, "OOMKilled")]))
    log = "".join(
        f'{{"used": {used}, "limit": 4294967296, "event": "memory_used", "rank": 0}}\n' for used in (2**31, 2**32 - 2**27)
    )
    told = states.with_peak(found, f'{{"event": "step"}}\n{log}{{"event": "memory_used", "us')
    assert told.what.endswith("limit 4Gi, peak seen 3,968 MiB")
    assert states.with_peak(found, "nothing") == found


def test_a_pod_that_ended_well_or_runs_has_no_failure():
    done = {"name": "pytorch", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    assert states.failures(pod(phase="Succeeded", containerStatuses=[done])) == []
    assert states.failures(pod(phase="Running", containerStatuses=[{"name": "pytorch", "state": {"running": {}}}])) == []


WAITING: dict[str, tuple[dict[str, Any], tuple[str, str] | None]] = {
    "no node has room": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient gpu"}
            ]
        },
        ("Unschedulable", "0/1 nodes: Insufficient gpu"),
    ),
    "no image": (
        {"containerStatuses": [{"name": "pytorch", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]},
        ("ErrImagePull", "pytorch: not found"),
    ),
    "no image for the init container": (
        {"initContainerStatuses": [{"name": "init", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "x"}}}]},
        ("ImagePullBackOff", "init: x"),
    ),
    "no secret": (
        {
            "containerStatuses": [
                {"name": "p", "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "k" not found'}}}
            ]
        },
        ("CreateContainerConfigError", 'p: secret "k" not found'),
    ),
    "again and again": (
        {"containerStatuses": [{"name": "p", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        ("CrashLoopBackOff", "p:  (restarted 4 times)"),
    ),
    "just starting": ({"containerStatuses": [{"name": "p", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, None),
    "running": ({"phase": "Running", "containerStatuses": [{"name": "p", "state": {"running": {}}}]}, None),
}


@pytest.mark.parametrize(("status", "reason"), WAITING.values(), ids=WAITING)
def test_a_pod_that_waits_says_why(status: dict[str, Any], reason: tuple[str, str] | None):
    assert states.waiting(pod(**status)) == reason


def failure(kind: str, at: str, **more: Any) -> Failure:
    return Failure(pod="p", key=f"{kind}{at}", kind=kind, what=f"{kind} at {at}", at=at, **more)


def test_the_first_cause_is_shown_and_not_who_only_lost_its_peers():
    incidents = Incidents(restarts=0, echo_seconds=60)
    for one in (failure(PEER_LOST, "1"), failure(STOPPED, "1"), failure("OOMKilled", "2"), failure("Error", "3")):
        incidents.add(one, now=0)
    assert not incidents.settled(SETTLED_SECONDS - 1)
    assert incidents.settled(SETTLED_SECONDS)
    with pytest.raises(LaunchError, match="OOMKilled at 2"):
        incidents.judge(10, "")


def test_training_goes_on_as_often_as_it_may():
    incidents = Incidents(restarts=2, echo_seconds=0)
    for now in (0, 100):
        incidents.add(failure("Evicted", str(now)), now)
        incidents.judge(now, "")
    incidents.add(failure("OOMKilled", "200"), 200)
    with pytest.raises(LaunchError, match=r"OOMKilled at 200.*Training went on 2 times before"):
        incidents.judge(200, "")


def test_what_follows_from_a_failure_is_not_another_one():
    incidents = Incidents(restarts=1, echo_seconds=60)
    incidents.add(failure("NodeLost", "0"), 0)
    incidents.judge(10, "")
    incidents.add(failure(PEER_LOST, "50"), 50)
    incidents.judge(56, "")
    assert incidents.used == 1


def test_an_error_that_would_come_again_ends_it_at_once_as_what_it_is():
    incidents = Incidents(restarts=5, echo_seconds=60)
    incidents.add(failure("TrainingError", "0", final=True, fix="Lower learning_rate."), 0)
    with pytest.raises(TrainingError, match=r"TrainingError at 0\. Lower learning_rate\.$"):
        incidents.judge(10, "")


def test_a_job_that_failed_unseen_is_told_with_its_own_word():
    with pytest.raises(LaunchError, match="DeadlineExceeded"):
        Incidents(restarts=0, echo_seconds=60).judge(0, "The job failed: DeadlineExceeded")
