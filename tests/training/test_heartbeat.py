"""The launcher's sign of life, and training that nobody watches any more: real processes on a real store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drrho_clip.errors import LaunchError
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, find_summary, train
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.training.failure import PEER_LOST, clear_failure, parse_failure, write_failure
from drrho_clip.training.heartbeat import Heartbeat

ENDLESS = {
    "run": "run",
    "dataset": "scenes",
    "method": "openclip",
    "architecture": "drrho-nano",
    "batch_size": 32,
    "samples": 32 * 1_000_000,
    "warmup_steps": 1,
    "log_steps": 1,
    "checkpoint_steps": 1_000_000,
}


def two_processes(arguments: list[str]) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]
    command = [*torchrun, "drrho_clip.training", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_run_that_nobody_watches_ends_with_a_checkpoint_and_code_0_on_every_process(scenes_store: Store):
    """Code 0, or Kubernetes starts it again."""
    lines: list[dict[str, object]] = []

    def watched_for_a_while(arguments: list[str]) -> None:
        with Heartbeat(scenes_store, "run", "me", every=0.5) as beat:
            process = two_processes([*arguments, "--launcher-timeout", "4"])
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("{"):
                    lines.append(json.loads(line))
                if lines and lines[-1]["event"] == "step" and beat.every < 1:
                    seen = time.monotonic()
                    beat.every = 1e6  # as if it was killed: from here on no word
            assert process.wait() == 0
            assert 3 < time.monotonic() - seen < 60

    with pytest.raises(Exception, match="without a summary"):
        train(TrainConfig(**ENDLESS), scenes_store, launch=watched_for_a_while)
    events = [line["event"] for line in lines]
    assert events.count("abandoned") == 1
    assert "failed" not in events
    steps = [line["step"] for line in lines if line["event"] == "step"]
    assert Checkpoints(scenes_store, "run", 2).steps() == [max(steps)]


def test_a_launcher_that_is_silent_from_the_start_ends_a_process_that_waits_for_others(scenes_store: Store):
    """One of two processes: the group never comes about, and no step looks at a flag."""

    def half(arguments: list[str]) -> None:
        environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        command = [sys.executable, "-m", "drrho_clip.training", *arguments, "--launcher-timeout", "3"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
        assert done.returncode == 0
        assert "ending before the first step" in done.stderr

    with pytest.raises(Exception, match="without a summary"):
        train(TrainConfig(**ENDLESS), scenes_store, launch=half)
    assert find_summary("run", scenes_store) is None


def test_a_second_launcher_is_refused_while_the_first_one_lives(store: Store):
    with (
        Heartbeat(store, "run", "first", every=0.2),
        pytest.raises(LaunchError, match="Run 'run' is being trained by 'first'"),
        Heartbeat(store, "run", "second", every=0.5),
    ):
        raise AssertionError("not reached")


def test_a_run_is_taken_up_after_its_launcher_ended_or_fell_silent(store: Store):
    with Heartbeat(store, "run", "first", every=0.2):
        left = store.read(layout.run_launcher("run"))
    with Heartbeat(store, "run", "second", every=60) as beat:  # the first one said that it ended: no waiting
        assert json.loads(store.read(layout.run_launcher("run")))["holder"] == "second"
        beat.every = 1
    store.write(layout.run_launcher("run"), left)  # killed: it never said so
    with Heartbeat(store, "run", "third", every=0.5):
        assert json.loads(store.read(layout.run_launcher("run")))["holder"] == "third"
    store.write(layout.run_launcher("run"), left)
    with Heartbeat(store, "run", "first", every=60):  # the same one, started again
        pass


def test_the_failure_that_says_most_is_kept(tmp_path: Path):
    file = tmp_path / "termination-log"
    file.touch()  # as the kubelet makes it
    write_failure(str(file), "Connection reset", kind=PEER_LOST)
    write_failure(str(file), "No dataset", where="s3://b/d", fix="Ingest it.", kind="DataError")
    write_failure(str(file), "Connection reset", kind=PEER_LOST)
    assert parse_failure(file.read_text()) == {
        "what": "No dataset",
        "where": "s3://b/d",
        "fix": "Ingest it.",
        "kind": "DataError",
    }
    clear_failure(str(file))
    assert file.read_text() == ""
    assert parse_failure("Traceback ...") is None
    assert parse_failure("[1]") is None


def test_a_process_that_lost_its_peer_says_that_the_cause_is_elsewhere(scenes_store: Store, tmp_path: Path):
    """Two processes without torchrun, as on two machines: one is killed, the other must not look like the cause."""
    files = [tmp_path / "0.json", tmp_path / "1.json"]

    def pair(arguments: list[str]) -> None:
        processes = []
        for rank, file in enumerate(files):
            environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            environment |= {"MASTER_PORT": str(20000 + os.getpid() % 20000), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "drrho_clip.training", *arguments, "--failure-file", str(file)]
            processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
        assert processes[0].stderr is not None
        for line in processes[0].stderr:
            if '"event": "step"' in line:
                processes[1].send_signal(signal.SIGKILL)
        assert processes[0].wait(60) == 1
        processes[1].communicate()

    with pytest.raises(Exception, match="without a summary"):
        train(TrainConfig(**ENDLESS), scenes_store, launch=pair)
    failure = parse_failure(files[0].read_text())
    assert failure is not None
    assert failure["kind"] == PEER_LOST
    assert not files[1].exists()
