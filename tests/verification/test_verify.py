"""What `drrho verify` finds: nothing in sound data, and each kind of damage by the key that has it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from drrho_clip.cli import make_app, run_app
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.reference_manifest import load_reference_manifest
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.reference.features import FeatureFiles
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training import TrainConfig, train
from drrho_clip.verification import verify_dataset, verify_run

SHARD = layout.shard("scenes", 0)
FEATURES = layout.reference_features("scenes", "ref", SHARD)


def flipped(data: bytes, at: int = -600) -> bytes:
    """One bit of it is another."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def other_features(store: Store, change: Callable[[torch.Tensor], torch.Tensor], *, listed: bool = True) -> None:
    """A features file that is sound in itself; the manifest knows it, too, where it is `listed`."""
    shard = load_manifest(store, "scenes").shards[0]
    key = layout.reference_manifest("scenes", "ref")
    reference = load_reference_manifest(store, "scenes", "ref")
    files = FeatureFiles(store, "scenes", "ref", reference.identity)
    features, keys = files.read(shard)
    files.write(shard, change(features), keys)
    found = files.find(shard)
    if listed and found is not None:
        shards = tuple(found if known.key == shard.key else known for known in reference.shards)
        store.write(key, reference.model_copy(update={"shards": shards}).model_dump_json().encode())


def scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(features: torch.Tensor) -> torch.Tensor:
        features[1, 0] *= factor
        return features

    return change


def test_a_sound_dataset_is_read_whole(scenes_store: Store):
    found = verify_dataset(scenes_store, "scenes")
    assert (found.problems, found.notes) == ([], [])
    total = json.loads(scenes_store.read(layout.dataset_manifest("scenes")))["shards"]
    samples = sum(shard["count"] for shard in total)
    assert (found.counts["samples"], found.counts["features"], found.counts["references"]) == (samples, samples, 1)
    assert found.counts["bytes"] == sum(shard["bytes"] for shard in total)


DATASET_DAMAGE: dict[str, tuple[Callable[[Store], object], str]] = {
    "another bit": (lambda store: store.write(SHARD, flipped(store.read(SHARD))), f"{SHARD}: "),
    "cut": (lambda store: store.write(SHARD, store.read(SHARD)[:-1024]), f"{SHARD}: "),
    "gone": (lambda store: store.delete(SHARD), f"{SHARD}: "),
    "index": (lambda store: store.write(layout.shard_index(SHARD), b"v1.2 0\n"), f"{SHARD}: Shard {SHARD}"),
    "version": (lambda store: store.delete(layout.dataset_manifest("scenes", 1)), layout.dataset_manifest("scenes", 1)),
    "features": (lambda store: store.write(FEATURES, flipped(store.read(FEATURES))), f"{FEATURES}: Features of"),
    "norm": (lambda store: other_features(store, scaled(1.1)), "a feature vector is not of unit norm"),
    "not finite": (lambda store: other_features(store, scaled(torch.nan)), "a feature vector is not of unit norm"),
    "other": (lambda store: other_features(store, scaled(1.001), listed=False), "it is not the file that the manifest names"),
    "shape": (lambda store: other_features(store, lambda features: features[:3]), "it is not the file that the manifest names"),
    "reference": (lambda store: store.write(layout.reference_manifest("scenes", "ref"), b"{"), "reference/ref/manifest.json"),
}


@pytest.mark.parametrize("damage", DATASET_DAMAGE)
def test_damage_of_a_dataset_is_named(damage: str, scenes_store: Store):
    spoil, expected = DATASET_DAMAGE[damage]
    spoil(scenes_store)
    (problem,) = verify_dataset(scenes_store, "scenes").problems
    assert expected in problem


@pytest.fixture(scope="module")
def trained_folder(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(scenes_folder, folder)
    small = {"architecture": "drrho-nano", "batch_size": 16, "samples": 16 * 6, "warmup_steps": 0, "checkpoint_steps": 2}
    config = {"run": "run", "dataset": "scenes", "method": "drrho", "reference": "ref", "log_steps": 2, **small}
    train(TrainConfig.parse(config), open_store(folder))
    return folder


@pytest.fixture
def trained(trained_folder: Path, tmp_path: Path) -> Store:
    shutil.copytree(trained_folder, tmp_path / "trained")
    return open_store(tmp_path / "trained")


def test_a_sound_run_is_read_whole(trained: Store):
    found = verify_run(trained, "run")
    assert (found.problems, found.notes) == ([], [])
    assert {name: found.counts[name] for name in ("checkpoints", "records", "exports")} == {
        "checkpoints": 2,
        "records": 3,
        "exports": 1,
    }
    assert 0 < found.counts["weights"] <= 96


CHECKPOINT = layout.checkpoint("run", 4)
U, MODEL = f"{CHECKPOINT}/u.000000000000.safetensors", f"{CHECKPOINT}/model.safetensors"


def unsorted_weights(store: Store) -> None:
    table = pq.read_table(io.BytesIO(store.read(layout.run_weights("run"))))
    buffer = io.BytesIO()
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), buffer)
    store.write(layout.run_weights("run"), buffer.getvalue())


def without_last_record(store: Store) -> None:
    lines = store.read(layout.run_metrics("run")).splitlines(keepends=True)
    store.write(layout.run_metrics("run"), b"".join(lines[:-1]))


RUN_DAMAGE: dict[str, tuple[Callable[[Store], object], str]] = {
    "model": (lambda store: store.write(MODEL, flipped(store.read(MODEL))), f"{MODEL}: its"),
    "u": (lambda store: store.write(U, store.read(U)[:-4]), f"{U}: its"),
    "gone": (lambda store: store.delete(U), f"{U}: "),
    "marker": (lambda store: store.write(layout.checkpoint_marker("run", 4), b"{"), layout.checkpoint_marker("run", 4)),
    "metrics": (lambda store: store.write(layout.run_metrics("run"), b"no\n"), f"{layout.run_metrics('run')}: it cannot"),
    "records": (without_last_record, f"{layout.run_metrics('run')}: it ends at step 4, the run at step 6"),
    "export": (lambda store: store.delete(f"{layout.export('run')}/open_clip_config.json"), f"{layout.export('run')}: "),
    "weights": (unsorted_weights, f"{layout.run_weights('run')}: its samples are not in order"),
    "no weights": (lambda store: store.delete(layout.run_weights("run")), f"{layout.run_weights('run')}: "),
    "summary": (lambda store: store.write(layout.run_summary("run"), b"{"), f"{layout.run_summary('run')}: it cannot"),
    "config": (lambda store: store.write(layout.run_config("run"), b"batch_size: none\n"), f"{layout.run_config('run')}: "),
}


@pytest.mark.parametrize("damage", RUN_DAMAGE)
def test_damage_of_a_run_is_named(damage: str, trained: Store):
    spoil, expected = RUN_DAMAGE[damage]
    spoil(trained)
    problems = verify_run(trained, "run").problems
    assert any(problem.startswith(expected) for problem in problems), problems
    assert len(problems) == (2 if damage == "metrics" else 1), problems


def test_what_was_not_finished_is_no_damage(trained: Store):
    trained.delete(layout.checkpoint_marker("run", 6))
    trained.delete(layout.run_summary("run"))
    found = verify_run(trained, "run")
    assert found.problems == []
    assert found.notes == [
        f"{layout.checkpoint('run', 6)}: it was never finished, and nobody reads it",
        f"{layout.run_summary('run')}: the run has not ended; it has got as far as step 6 of 6",
    ]


def test_the_command_takes_a_uri_or_a_name(trained: Store, capfd: pytest.CaptureFixture[str]):
    assert run_app(make_app(), ["verify", "dataset", f"{trained.uri}/datasets/scenes/"]) == 0
    assert json.loads(capfd.readouterr().out)["problems"] == 0
    assert run_app(make_app(), ["verify", "run", "run", "--store", trained.uri]) == 0
    trained.write(MODEL, b"")
    capfd.readouterr()
    assert run_app(make_app(), ["verify", "run", f"{trained.uri}/runs/run"]) == 1
    said = capfd.readouterr()
    assert json.loads(said.out)["problems"] == 1
    assert said.err.startswith(f"{MODEL}: its 0 bytes are not those that were saved")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset", "scenes"], "This is not the URI of a dataset"),
        (["dataset", "{store}/runs/run"], "This is not the URI of a dataset"),
        (["dataset", "{store}/datasets/scene"], "There is no dataset 'scene'"),
        (["dataset", "{store}/datasets/scenes", "--version", "7"], "has no version 7"),
        (["run", "{store}/runs/ran"], "There is no run 'ran'"),
        (["run", "{store}/runs/run", "--version", "1"], "A run has no version"),
        (["model", "{store}/runs/run"], "'model' is not one of"),
    ],
)
def test_bad_input_is_2(arguments: list[str], message: str, trained_folder: Path, capfd: pytest.CaptureFixture[str]):
    filled = [argument.format(store=trained_folder) for argument in arguments]
    assert run_app(make_app(), ["verify", *filled]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_what_is_not_there_is_an_error(scenes_store: Store):
    with pytest.raises(DataError, match="There is no dataset 'pets'"):
        verify_dataset(scenes_store, "pets")
    with pytest.raises(ConfigError, match="There is no run 'pets'"):
        verify_run(scenes_store, "pets")
