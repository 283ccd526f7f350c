"""The advisor on a small generated dataset: pilot, ranking, what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drrho_clip.cli.app import make_app, run_app
from drrho_clip.errors import ConfigError, DrrhoError
from drrho_clip.reference import ReferenceConfig, compute_reference
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.studies import AdviseConfig
from drrho_clip.studies.advisor import Advice, advise, pilot_config
from drrho_clip.training import TrainConfig, find_summary, read_config, train
from drrho_clip.training.__main__ import main

PLANNED = {
    "dataset": "scenes",
    "method": "drrho",
    "reference": "ref",
    "architecture": "drrho-nano",
    "batch_size": 32,
    "samples": 32 * 400,
    "learning_rate": 2e-3,
    "warmup_steps": 10,
    "temperature": 0.1,
    "augmentation": "shift",
}


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


def never(_arguments: list[str]) -> None:
    raise AssertionError("nothing should have been started")


@pytest.fixture(scope="module")
def advised(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with two references: `ref`, which was never trained, and `good`, which has seen the data for 250 steps."""
    import shutil

    folder = tmp_path_factory.mktemp("advised") / "store"
    shutil.copytree(scenes_folder, folder)
    store = open_store(folder)
    config = TrainConfig.parse({**PLANNED, "run": "good", "method": "openclip", "reference": "", "samples": 32 * 250})
    train(config, store, launch=in_process)
    compute_reference(ReferenceConfig(dataset="scenes", model="run:good", name="good", pool=64), store)
    return store


@pytest.fixture(scope="module")
def advice(advised: Store) -> Advice:
    return advise(AdviseConfig(references="ref,good", pilot_steps=30), TrainConfig.parse(PLANNED), advised, launch=in_process)


def test_the_reference_that_knows_more_than_the_data_taught_is_the_one_to_take(advice: Advice):
    good, untrained = advice.references
    assert (good.reference, untrained.reference) == ("good", "ref")
    assert (good.helps, untrained.helps) == (True, False)
    assert advice.best is not None
    assert advice.best.reference == "good"
    assert good.information > advice.pilot_information + 0.3 > untrained.information + 0.3
    assert "nothing to add" in untrained.why
    assert good.explained > 3 * untrained.explained
    assert good.variance == untrained.variance  # of the pilot alone
    assert 0 < good.temperature < 1
    assert 0 < good.eps < 1


def test_none_is_recommended_where_none_will_help(advised: Store, advice: Advice):
    alone = advise(AdviseConfig(references="ref", pilot_steps=30), TrainConfig.parse(PLANNED), advised, launch=never)
    assert alone.best is None
    assert alone.pilot == advice.pilot  # found, not trained again


def test_the_pilot_is_the_planned_training_but_short_and_without_a_reference(advised: Store, advice: Advice):
    pilot = read_config(advice.pilot, advised)
    assert (pilot.method, pilot.reference, pilot.record_weights) == ("openclip", "", "no")
    assert (pilot.architecture, pilot.batch_size, pilot.learning_rate) == ("drrho-nano", 32, 2e-3)
    assert (pilot.temperature, pilot.samples) == (-1.0, 32 * 30)
    assert pilot.warmup_steps == 6
    summary = find_summary(advice.pilot, advised)
    assert summary is not None
    assert summary.samples_seen == advice.pilot_samples == 32 * 30
    assert json.loads(advised.read(layout.advice(advice.pilot)))["pilot"] == advice.pilot


def test_a_share_of_long_trainings_and_never_more_than_planned(advised: Store):
    from drrho_clip.data.manifest import load_manifest

    manifest = load_manifest(advised, "scenes")
    asked = AdviseConfig(references="ref")
    long = TrainConfig.parse({**PLANNED, "samples": 32 * 100_000})
    assert pilot_config(asked, long, manifest).samples == 32 * 2000
    short = TrainConfig.parse({**PLANNED, "samples": 32 * 20})
    assert pilot_config(asked, short, manifest).samples == 32 * 20
    assert pilot_config(asked, short, manifest).run != pilot_config(asked, long, manifest).run


@pytest.mark.parametrize(("references", "message"), [("", "references"), ("a,a", "each once"), (" , ", "references")])
def test_no_or_doubled_references_are_refused(references: str, message: str):
    with pytest.raises(ConfigError, match=message):
        AdviseConfig.parse({"references": references})


def test_features_that_are_not_there_are_named_before_anything_is_trained(scenes_store: Store):
    with pytest.raises(DrrhoError, match="nothere"):
        advise(AdviseConfig(references="nothere"), TrainConfig.parse(PLANNED), scenes_store, launch=never)


def test_the_command_shows_what_was_found(advised: Store, advice: Advice, capsys: pytest.CaptureFixture[str]):
    settings = [f"--set={key}={value}" for key, value in PLANNED.items() if key not in ("dataset", "method", "reference")]
    command = ["advise", "--store", advised.uri, "--dataset", "scenes", "--reference", "ref", "--reference", "good"]
    assert run_app(make_app(), [*command, "--pilot-steps", "30", *settings]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["result"] for record in shown] == ["advice", "1. good", "2. ref"]
    assert (shown[0]["best"], shown[0]["pilot"]) == ("good", advice.pilot)
    assert shown[1]["temperature"] == advice.references[0].temperature


def test_the_command_without_a_reference_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_app(make_app(), ["advise", "--store", str(tmp_path), "--dataset", "scenes"]) == 2
    assert "references" in capsys.readouterr().err
