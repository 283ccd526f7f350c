"""Nothing of a cluster is left when it is to end, also when whoever started it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testcluster import system
from testcluster.cluster import Cluster
from testcluster.places import HERE

NAME = "brief"


def left_of(cluster: Cluster, network: int) -> dict[str, list[str]]:
    """What is still there of a cluster: processes of its network, mounts of its folders, control groups, files."""
    here = cluster.places
    processes = [path.parent.parent.name for path in Path("/proc").glob("[0-9]*/ns/net") if _inode(path) == network]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(here.run) in line]
    groups = [str(path) for path in system.cgroup_folders(here.cgroup) if path.exists()]
    files = [path.name for path in here.run.iterdir() if path != here.logs]
    return {"processes": processes, "mounts": mounts, "groups": groups, "files": files}


NOTHING: dict[str, list[str]] = {"processes": [], "mounts": [], "groups": [], "files": []}


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:  # it has ended
        return 0


@pytest.fixture
def own_machine(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("kubeconfig"):
        pytest.skip("another cluster is not ours to remove")


def test_nothing_is_left_after_the_end(own_machine):
    cluster = Cluster(NAME)
    cluster.start()
    network = cluster.network.stat().st_ino
    there = left_of(cluster, network)
    assert len(there["processes"]) > 7, "the programs that run are seen"
    assert there["groups"]
    cluster.stop()
    assert left_of(cluster, network) == NOTHING


def test_nothing_is_left_when_the_runner_is_killed(own_machine):
    code = f"from testcluster.cluster import Cluster; Cluster('{NAME}').start(); print('up', flush=True); input()"
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", code]
    runner = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    assert runner.stdout.readline() == "up\n"
    cluster = Cluster(NAME)
    network = cluster.network.stat().st_ino
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    deadline = time.monotonic() + 60
    while (left := left_of(cluster, network)) != NOTHING and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == NOTHING


def test_nothing_runs_on_when_the_supervisor_is_killed(own_machine):
    """The kernel ends the processes; the next `stop` removes the control groups."""
    cluster = Cluster(NAME)
    cluster.start()
    network = cluster.network.stat().st_ino
    os.kill(cluster.supervisor, signal.SIGKILL)
    cluster.stop()
    assert {kind: left for kind, left in left_of(cluster, network).items() if kind != "files"} | {"files": []} == NOTHING
