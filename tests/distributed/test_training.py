"""Two processes under torchrun train what one process trains."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from drrho_clip.models import load_model
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.launch import run_locally

RUNS = ("w1", "w2", "parts", "shared")


def train_with(processes: int, store: Store, **changed: object) -> TrainConfig:
    config = TrainConfig.parse(
        {
            "run": f"w{processes}",
            "dataset": "scenes",
            "method": "drrho",
            "reference": "ref",
            "architecture": "drrho-nano",
            "batch_size": 32,
            "samples": 32 * 12,
            "learning_rate": 1e-3,
            "warmup_steps": 2,
            "temperature": 0.1,
            "log_steps": 3,
            **changed,
        }
    )
    train(config, store, launch=partial(run_locally, processes=processes))
    return config


def test_two_processes_train_the_same_model_as_one(scenes_store: Store) -> None:
    train_with(1, scenes_store)
    train_with(2, scenes_store)
    train_with(2, scenes_store, run="parts", accumulate=2)
    train_with(2, scenes_store, run="shared", u_home="shared")
    one, *others = ([json.loads(row) for row in scenes_store.read(layout.run_metrics(run)).splitlines()] for run in RUNS)
    for other in others:
        for row_one, row_two in zip(one, other, strict=True):
            for key in row_one.keys() - {"time", "samples_per_second", "step_seconds", "data_wait_seconds"}:
                assert row_two[key] == pytest.approx(row_one[key], rel=2e-4, abs=1e-6), key
    expected, *states = (load_model(f"run:{run}", scenes_store).model.state_dict() for run in RUNS)
    for state in states:
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert scenes_store.read(layout.run_weights("w2"))


@pytest.mark.parametrize("home", ["device", "shared"])
def test_a_stopped_run_goes_on_with_another_number_of_processes(scenes_store: Store, home: str) -> None:
    changed = {"u_home": home, "checkpoint_steps": 6, "keep_checkpoints": 9}
    config = train_with(1, scenes_store, run="moved", **changed)
    undisturbed = load_model("run:moved", scenes_store).model.state_dict()
    weights = pq.read_table(io.BytesIO(scenes_store.read(layout.run_weights("moved"))))
    kept = (layout.run_config("moved"), layout.checkpoint("moved", 6))
    for info in list(scenes_store.list(layout.run("moved"))):  # as if it had been killed after step 6
        if not info.key.startswith(kept):
            scenes_store.delete(info.key)
    train(config, scenes_store, launch=partial(run_locally, processes=2))
    for name, value in load_model("run:moved", scenes_store).model.state_dict().items():
        torch.testing.assert_close(value, undisturbed[name], rtol=1e-3, atol=1e-4, msg=name)
    again = pq.read_table(io.BytesIO(scenes_store.read(layout.run_weights("moved"))))
    assert again["key"].to_pylist() == weights["key"].to_pylist()
    np.testing.assert_allclose(again["image_weight"].to_numpy(), weights["image_weight"].to_numpy(), atol=1e-4)


def test_an_error_in_one_process_ends_all_with_its_own_message(scenes_store: Store) -> None:
    with pytest.raises(Exception, match="cannot share") as caught:
        train_with(2, scenes_store, lanes=1)
    assert "Traceback" not in str(caught.value)
