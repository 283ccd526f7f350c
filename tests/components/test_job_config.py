"""Settings of a job: what a form's text becomes, and what is refused before a cluster is asked."""

from __future__ import annotations

from typing import Any

import pytest

from drrho_clip.errors import ConfigError
from drrho_clip.training import TrainConfig
from drrho_clip.training.shared_memory import needed
from drrho_components.launch import JobConfig
from drrho_components.launch.config import quantity
from drrho_components.launch.plan import shared_memory
from drrho_components.launch.trainjob import TRAINJOB


def test_text_of_a_form_is_understood():
    config = JobConfig.parse(
        {
            "gpu_node_selector": '{"pool": "a100"}',
            "gpu_tolerations": [{"key": "gpu", "operator": "Exists"}],
            "nodes": 2.0,
        }
    )
    assert config.gpu_node_selector == {"pool": "a100"}
    assert config.gpu_tolerations == [{"key": "gpu", "operator": "Exists"}]
    assert config.annotations == {"sidecar.istio.io/inject": "false"}
    assert (JobConfig().labels, JobConfig().gpu_tolerations) == ({}, [])


@pytest.mark.parametrize(
    ("text", "number"), [("4", 4), ("500m", 0.5), ("1.5", 1.5), ("4Gi", 4 * 2**30), ("64Mi", 2**26), ("2G", 2e9), ("1k", 1000)]
)
def test_quantities_are_those_of_kubernetes(text: str, number: float):
    assert quantity(text) == number


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no quantity": ({"node_memory": "4 GB"}, "'node_memory': '4 GB' is no Kubernetes quantity"),
    "no memory": ({"node_memory": ""}, "node_cpu and node_memory"),
    "no JSON": ({"gpu_node_selector": "pool=a100"}, "'gpu_node_selector': this is not JSON"),
    "another kind of JSON": ({"gpu_tolerations": '{"key": "gpu"}'}, "'gpu_tolerations': this must be a list of objects"),
    "a label that is no string": ({"labels": '{"team": 5}'}, "'labels': every value must be a string, in quotes"),
    "two processes on one GPU": ({"node_gpus": "1", "processes": 2}, "2 processes a node cannot share its 1 GPUs"),
    "no node": ({"nodes": 0}, "'nodes'"),
    "a word for elastic": ({"elastic": "maybe"}, "'elastic'"),
    "a launcher that may not be silent": ({"launcher_timeout": 0}, "'launcher_timeout'"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_by_name(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        JobConfig.parse(values)
    assert message in str(error.value)


@pytest.mark.parametrize("values", [{"elastic": "yes"}, {"priority_class": "high"}])
def test_a_trainjob_refuses_what_it_cannot_say(values: dict[str, Any]):
    with pytest.raises(ConfigError, match="Use the launcher pytorchjob"):
        TRAINJOB.check(JobConfig.parse(values))


TRAINING = TrainConfig(method="openclip", architecture="ViT-B-32", batch_size=1024, workers=4)


def test_shared_memory_grows_with_what_is_in_it():
    """224 x 224 x 3 bytes a picture: 4 workers with 3 batches of 512 each hold 0.86 GiB on each of two nodes."""
    config = JobConfig(nodes=2, node_memory="64Gi")
    size = shared_memory(config, TRAINING, samples=1000)
    assert 0.86 * 2**30 < size < 1.2 * 2**30
    floats = TRAINING.model_copy(update={"augmentation": "shift"})  # its noise is not rounded
    assert 3.4 * 2**30 < shared_memory(config, floats, samples=1000) < 5 * 2**30
    assert needed(TRAINING.model_copy(update={"workers": 0}), 1000, processes=1, world_size=2) < 2**28
    assert shared_memory(config.model_copy(update={"nodes": 4}), TRAINING, 1000) < size
    huge = TrainConfig(method="drrho", reference="r", architecture="drrho-nano")
    large = shared_memory(config, huge.model_copy(update={"record_weights": "no"}), samples=10**9)
    assert 8e9 < large < 9e9  # u of a thousand million samples is shared by the processes of a node
    assert 24e9 < shared_memory(config, huge, samples=10**9) < 25e9  # and so are the weights
    assert shared_memory(JobConfig(shm="1Gi"), TRAINING, 1000) == 2**30


def test_shared_memory_has_to_fit_into_the_node():
    with pytest.raises(ConfigError, match=r"/dev/shm of .* MiB does not fit into the node's 4Gi.*Raise node_memory"):
        shared_memory(JobConfig(), TRAINING.model_copy(update={"augmentation": "shift"}), 1000)
