from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.errors import ConfigError, DrrhoError, LaunchError
from drrho_clip.storage import Store
from drrho_clip.training import TrainConfig, train
from drrho_components.launch import JobConfig, launcher_for

TINY = {"method": "openclip", "architecture": "drrho-nano", "batch_size": 8, "samples": 32, "warmup_steps": 1, "dataset": "s"}


@pytest.fixture
def dataset(folder_store: Store) -> Store:
    ingest(IngestConfig(dataset="s", source="scenes", samples=24, workers=1), folder_store)
    return folder_store


def test_local_trains_on_real_processes(dataset: Store):
    done = train(TrainConfig(run="r", **TINY), dataset, launch=launcher_for("local", JobConfig(processes=2)).run)
    assert (done.world_size, done.samples_seen) == (2, 32)


def test_local_gives_the_reason_of_the_failure(dataset: Store):
    with pytest.raises(DrrhoError) as error:
        launcher_for("local", JobConfig()).run(["--store", dataset.uri, "--run", "none"])
    assert "none" in str(error.value)


def test_local_takes_no_second_machine():
    with pytest.raises(LaunchError, match="trains on one machine, not on 2"):
        launcher_for("local", JobConfig(nodes=2))


@pytest.mark.parametrize("name", ["pytorchjob", "trainjob"])
def test_cluster_launchers_say_that_they_need_one_before_anything_is_written(
    name: str, dataset: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = {info.key for info in dataset.list()}
    with pytest.raises(ConfigError, match=r"There is no kubeconfig, and this is no pod.*The launcher local needs none"):
        train(TrainConfig(run="r", **TINY), dataset, launch=launcher_for(name, JobConfig()).run)
    assert {info.key for info in dataset.list()} == before


def test_unknown_launchers_are_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"There is no launcher 'pytorch-job'. Did you mean pytorchjob\?"):
        launcher_for("pytorch-job", JobConfig())


def test_sigterm_reaches_the_training(dataset: Store):
    """The step gets SIGTERM (a pod is evicted, a run is stopped): the training writes a checkpoint before it ends."""
    config = {**TINY, "samples": 80_000, "run": "r", "log_steps": 1, "checkpoint_steps": 10_000}
    code = (
        "import json, sys\nfrom drrho_clip.storage import open_store\nfrom drrho_clip.training import TrainConfig, train\n"
        "from drrho_components.launch import JobConfig, launcher_for\n"
        "train(TrainConfig(**json.loads(sys.argv[1])), open_store(sys.argv[2]), launch=launcher_for('local', JobConfig()).run)"
    )
    command = [sys.executable, "-c", code, json.dumps(config), dataset.uri]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if '"event": "step"' in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait() != 0
    assert '"interrupted"' in rest
    assert any(info.key.endswith("COMPLETE.json") for info in dataset.list("runs/r/checkpoints/"))
