"""Runs that go on from a finished one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.errors import ConfigError
from drrho_clip.models import load_model
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.__main__ import main

SETTINGS = {
    "dataset": "scenes",
    "method": "fastclip",
    "architecture": "drrho-nano",
    "batch_size": 32,
    "samples": 32 * 4,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "learn_temperature": "yes",
    "augmentation": "none",
}


def run(store: Store, name: str, **changed: Any) -> None:
    train(TrainConfig.parse({"run": name, **SETTINGS, **changed}), store, launch=in_process)


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


def never(_arguments: list[str]) -> None:
    raise AssertionError("nothing should have been started")


def weights(store: Store, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_model(f"run:{name}", store).model.state_dict()
    return {key: value for key, value in state.items() if "logit" not in key}


def last(store: Store, name: str, step: int, part: str) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint."""
    return load(store.read(f"{layout.checkpoint(name, step)}/{part}.safetensors"))


def difference(store: Store, one: str, other: str) -> float:
    pairs = zip(weights(store, one).values(), weights(store, other).values(), strict=True)
    return max(float((first.float() - second.float()).abs().max()) for first, second in pairs)


BARELY = {"samples": 32, "warmup_steps": 0, "learning_rate": 1e-9, "temperature_learning_rate": 1e-9}
"""One step that changes next to nothing."""


def test_it_starts_with_the_weights_the_temperature_and_u_of_the_samples_that_are_known(scenes_store: Store):
    run(scenes_store, "first")
    old = load_manifest(scenes_store, "scenes")
    grown = IngestConfig(dataset="scenes", source="scenes", samples=480, image_size=32, shard_samples=90, workers=1)
    new = ingest(grown, scenes_store)
    run(scenes_store, "second", initial="run:first", **BARELY)
    run(scenes_store, "other", seed=5, **BARELY)
    assert difference(scenes_store, "first", "second") < 1e-6 < difference(scenes_store, "first", "other")
    scale = [last(scenes_store, name, step, "objective")["log_scale"] for name, step in (("first", 4), ("second", 1))]
    torch.testing.assert_close(scale[1], scale[0], atol=1e-6, rtol=0)
    before, after = (last(scenes_store, *at, "u.000000000000")["rows"] for at in (("first", 4), ("second", 1)))
    assert (len(before), len(after)) == (old.total, new.total)
    kept = (after[: old.total] == before).all(dim=1)
    known = ~before.isnan().any(dim=1)
    assert int((known & ~kept).sum()) <= 32  # those of the one batch
    assert int((known & kept).sum()) >= 64
    assert int((~after[old.total :].isnan()).any(dim=1).sum()) <= 32


def test_u_of_a_known_sample_is_averaged_and_not_forgotten():
    assert TrainConfig.parse({"run": "r", **SETTINGS}).objective().gamma_schedule == "cosine"
    assert TrainConfig.parse({"run": "r", **SETTINGS, "initial": "run:x"}).objective().gamma_schedule == "constant"
    TrainConfig.parse({"run": "r", **SETTINGS, "method": "openclip", "initial": "run:x"}).objective()


def test_a_constant_temperature_is_the_setting_s(scenes_store: Store):
    run(scenes_store, "first", temperature=0.2)
    run(scenes_store, "second", initial="run:first", learn_temperature="no", temperature=0.05, **BARELY)
    scale = last(scenes_store, "second", 1, "objective")["log_scale"]
    assert float(torch.exp(-scale)) == pytest.approx(0.05)


def test_without_a_checkpoint_the_weights_are_those_of_the_export(scenes_store: Store):
    run(scenes_store, "first", method="openclip")
    for info in list(scenes_store.list("runs/first/checkpoints/")):
        scenes_store.delete(info.key)
    run(scenes_store, "second", initial="run:first", **BARELY)
    assert difference(scenes_store, "first", "second") < 1e-6


def test_a_dataset_of_another_name_has_a_u_of_its_own(scenes_store: Store):
    run(scenes_store, "first")
    ingest(IngestConfig(dataset="others", source="scenes", samples=400, image_size=32, workers=1), scenes_store)
    run(scenes_store, "second", dataset="others", initial="run:first", **BARELY)
    rows = last(scenes_store, "second", 1, "u.000000000000")["rows"]
    assert int((~rows.isnan()).any(dim=1).sum()) <= 32


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ("first", "'first' is no run: write run:NAME"),
        ("run:", "'run:' is no run"),
        ("run:second", "cannot go on from itself"),
        ("run:none", "There is no finished run 'none'"),
        ("run:large", "is a drrho-tiny, and cannot go on as a drrho-nano"),
    ],
)
def test_what_cannot_be_gone_on_from_is_named_before_anything_is_written(initial: str, message: str, scenes_store: Store):
    if initial == "run:large":
        run(scenes_store, "large", architecture="drrho-tiny", samples=32, warmup_steps=0)
    with pytest.raises(ConfigError, match=message):
        train(TrainConfig.parse({"run": "second", **SETTINGS, "initial": initial}), scenes_store, launch=never)
    assert list(scenes_store.list("runs/second/")) == []
