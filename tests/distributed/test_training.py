"""Two processes under torchrun train what one process trains."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.models import load_model
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, find_summary, train
from drrho_clip.training.__main__ import main
from drrho_clip.training.launch import run_locally
from drrho_clip.training.step import Launch

RUNS = ("w1", "w2", "parts", "blocks", "shared")


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


def train_with(processes: int, store: Store, launch: Launch | None = None, **changed: object) -> TrainConfig:
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
    train(config, store, launch=launch or partial(run_locally, processes=processes))
    return config


def test_two_processes_train_the_same_model_as_one(scenes_store: Store) -> None:
    train_with(1, scenes_store)
    train_with(2, scenes_store)
    train_with(2, scenes_store, run="parts", accumulate=2)
    train_with(2, scenes_store, run="blocks", accumulate=2, gradient_checkpointing="yes")
    train_with(2, scenes_store, run="shared", u_home="shared")
    one, *others = ([json.loads(row) for row in scenes_store.read(layout.run_metrics(run)).splitlines()] for run in RUNS)
    for other in others:
        for row_one, row_two in zip(one, other, strict=True):
            for key in row_one.keys() - {"time", "samples_per_second", "step_seconds", "data_wait_seconds"}:
                assert row_two[key] == pytest.approx(row_one[key], rel=2e-4, abs=1e-6), key
    final, *finals = ((found := find_summary(run, scenes_store)) and found.final for run in RUNS)
    for other in finals:
        for side in ("image", "text"):
            for of in ("target", "rho"):
                key = f"pairwise_loss_variance.{side}.{of}"
                assert other[key] == pytest.approx(final[key], rel=2e-4), key
    expected, *states = (load_model(f"run:{run}", scenes_store).model.state_dict() for run in RUNS)
    for state in states:
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert scenes_store.read(layout.run_weights("w2"))


@pytest.mark.parametrize(("home", "then"), [("device", "shared"), ("shared", "device")])
def test_a_stopped_run_goes_on_with_other_processes_and_another_home_of_u(scenes_store: Store, home: str, then: str) -> None:
    changed = {"u_home": home, "checkpoint_steps": 6, "keep_checkpoints": 9}
    config = train_with(1, scenes_store, run="moved", **changed)
    undisturbed = load_model("run:moved", scenes_store).model.state_dict()
    weights = pq.read_table(io.BytesIO(scenes_store.read(layout.run_weights("moved"))))
    kept = (layout.run_config("moved"), layout.checkpoint("moved", 6))
    for info in list(scenes_store.list(layout.run("moved"))):  # as if it had been killed after step 6
        if not info.key.startswith(kept):
            scenes_store.delete(info.key)
    train(config.model_copy(update={"u_home": then}), scenes_store, launch=partial(run_locally, processes=2))
    for name, value in load_model("run:moved", scenes_store).model.state_dict().items():
        torch.testing.assert_close(value, undisturbed[name], rtol=1e-3, atol=1e-4, msg=name)
    again = pq.read_table(io.BytesIO(scenes_store.read(layout.run_weights("moved"))))
    assert again["key"].to_pylist() == weights["key"].to_pylist()
    np.testing.assert_allclose(again["image_weight"].to_numpy(), weights["image_weight"].to_numpy(), atol=1e-4)


def test_two_processes_start_from_another_run_as_one_does(scenes_store: Store) -> None:
    changed: dict[str, object] = {"method": "fastclip", "learn_temperature": "yes", "gamma_min": 0.6, "reference": ""}
    train_with(1, scenes_store, run="first", launch=in_process, **changed)
    grown = IngestConfig(dataset="scenes", source="scenes", samples=480, image_size=32, shard_samples=90, workers=1)
    ingest(grown, scenes_store)  # u of the samples that the first run did not know starts anew
    further = {**changed, "initial": "run:first", "seed": 3, "samples": 32 * 4, "warmup_steps": 1, "augmentation": "none"}
    train_with(1, scenes_store, run="one", launch=in_process, **further)
    train_with(1, scenes_store, run="scratch", launch=in_process, **{**further, "initial": ""})
    for home in ("device", "shared"):
        train_with(2, scenes_store, run=home, u_home=home, **further)
    one, scratch = finished(scenes_store, "one"), finished(scenes_store, "scratch")
    for home in ("device", "shared"):
        for key, value in finished(scenes_store, home).items():
            torch.testing.assert_close(value, one[key], rtol=1e-3, atol=1e-4, msg=key, equal_nan=True)
    known = {name: ~state["u.000000000000/rows"].isnan().any(1) for name, state in (("one", one), ("scratch", scratch))}
    assert known["scratch"].sum() <= 4 * 32 < known["one"].sum() < len(known["one"])
    assert any((one[key] - scratch[key]).abs().max() > 1e-2 for key in one if key.startswith("model/"))


def finished(store: Store, run: str) -> dict[str, torch.Tensor]:
    """Weights, temperature and u of the last checkpoint, by file and name."""
    parts = ("model", "objective", "u.000000000000")
    files = {part: load(store.read(f"{layout.checkpoint(run, 4)}/{part}.safetensors")) for part in parts}
    return {f"{part}/{name}": value for part, values in files.items() for name, value in values.items()}


def test_an_error_in_one_process_ends_all_with_its_own_message(scenes_store: Store) -> None:
    with pytest.raises(Exception, match="cannot share") as caught:
        train_with(2, scenes_store, lanes=1)
    assert "Traceback" not in str(caught.value)
