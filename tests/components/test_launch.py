from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.errors import ConfigError, DrrhoError, LaunchError
from drrho_clip.storage import Store
from drrho_clip.training import TrainConfig, train
from drrho_components.launch import LAUNCHERS, Resources, Topology, launcher, start_with

TINY = {"method": "openclip", "architecture": "drrho-nano", "batch_size": 8, "samples": 32, "warmup_steps": 1, "dataset": "s"}


@pytest.fixture
def dataset(folder_store: Store) -> Store:
    ingest(IngestConfig(dataset="s", source="scenes", samples=24, workers=1), folder_store)
    return folder_store


def test_local_trains_on_real_processes(dataset: Store):
    done = train(TrainConfig(run="r", **TINY), dataset, launch=start_with("local", nodes=1, processes=2))
    assert (done.world_size, done.samples_seen) == (2, 32)


def test_local_gives_the_reason_of_the_failure(dataset: Store):
    with pytest.raises(DrrhoError) as error:
        launcher("local").run(["--store", dataset.uri, "--run", "none"], Topology(), Resources())
    assert "none" in str(error.value)


def test_local_takes_no_second_machine():
    with pytest.raises(LaunchError, match="trains on one machine, not on 2"):
        launcher("local").run([], Topology(nodes=2), Resources())


@pytest.mark.parametrize("name", [name for name in LAUNCHERS if name != "local"])
def test_cluster_launchers_say_that_they_need_one_before_anything_is_written(name: str, dataset: Store):
    before = {info.key for info in dataset.list()}
    with pytest.raises(LaunchError, match=f"'{name}' needs a Kubernetes cluster.*launcher 'local'"):
        train(TrainConfig(run="r", **TINY), dataset, launch=start_with(name, nodes=1, processes=1))
    assert {info.key for info in dataset.list()} == before


def test_unknown_launchers_are_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"There is no launcher 'pytorch-job'. Did you mean pytorchjob\?"):
        launcher("pytorch-job")


@pytest.mark.parametrize("topology", [{"nodes": 0}, {"processes_per_node": -1}])
def test_a_topology_has_at_least_one_of_everything(topology: dict[str, int]):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Topology(**topology)


def test_sigterm_reaches_the_training(dataset: Store):
    """The step gets SIGTERM (a pod is evicted, a run is stopped): the training writes a checkpoint before it ends."""
    config = {**TINY, "samples": 80_000, "run": "r", "log_steps": 1, "checkpoint_steps": 10_000}
    code = (
        "import json, sys\nfrom drrho_clip.storage import open_store\nfrom drrho_clip.training import TrainConfig, train\n"
        "from drrho_components.launch import start_with\n"
        "train(TrainConfig(**json.loads(sys.argv[1])), open_store(sys.argv[2]), launch=start_with('local', nodes=1, processes=1))"
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
