from __future__ import annotations

from pathlib import Path

import pytest

from drrho_clip.config import SECTIONS, RunConfig, load_config
from drrho_clip.errors import ConfigError


def load(tmp_path: Path, text: str, *assignments: str, section: str = "") -> RunConfig:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    return load_config(file, assignments, section=section)


def test_names_are_written_once_and_handed_down(tmp_path: Path):
    config = load(tmp_path, "dataset: pets\nrun: first\nreference: {model: 'run:ref'}\nevaluate: {candidates: all}\n")
    assert {getattr(config, name).dataset for name in SECTIONS if name != "study"} == {"pets"}
    assert (config.train.run, config.evaluate.run, config.report.runs) == ("first", "first", "first")
    assert config.train.reference == "run-ref"
    assert config.report.split == "heldout-all"


def test_a_step_may_say_something_else(tmp_path: Path):
    config = load(tmp_path, "dataset: pets\nevaluate: {dataset: birds}\ntrain: {reference: other}\n")
    assert (config.train.dataset, config.evaluate.dataset, config.train.reference) == ("pets", "birds", "other")


def test_run_is_not_handed_to_the_evaluation_of_something_else():
    assert load_config(None, ["evaluate.model=ViT-B-32/openai"]).evaluate.run == ""


@pytest.mark.parametrize(
    ("assignments", "reference"),
    [
        ([], "ViT-B-32-openai"),
        (["train.method=openclip"], None),
        (["train.method=openclip", "reference.model=run:ref"], "run-ref"),
        (["train.method=openclip", "reference.model="], None),
        (["reference.name=mine"], "mine"),
    ],
)
def test_reference_is_there_where_it_is_asked_for_or_needed(assignments: list[str], reference: str | None):
    config = load_config(None, assignments)
    assert (config.reference.reference_id if config.reference else None) == reference
    assert config.train.reference == (reference or "")


def test_scalars_mean_what_the_setting_is(tmp_path: Path):
    """YAML 1.1 would make False of `no`, text of 1e-4, and a number of a run called 12; forms of the UI send 64.0."""
    config = load(tmp_path, "run: 12\ntrain:\n  learn_temperature: no\n  learning_rate: 1e-4\n  batch_size: 64.0\n")
    assert (config.run, config.train.learn_temperature) == ("12", "no")
    assert (config.train.learning_rate, config.train.batch_size) == (1e-4, 64)


def test_flags_win_over_the_file_and_set_over_flags(tmp_path: Path):
    file = tmp_path / "my.yaml"
    file.write_text("dataset: a\ntrain: {batch_size: 8, seed: 1}\n")
    given = {"dataset": "b", "train.batch_size": 16}
    config = load_config(file, ["train.batch_size=32"], given=given)
    assert (config.dataset, config.train.batch_size, config.train.seed) == ("b", 32, 1)


def test_set_takes_the_own_keys_of_a_steps_command():
    assert load_config(None, ["batch_size=32", "dataset=pets"], section="train").train.batch_size == 32
    # A key of the step that is also the name of another step's section:
    assert load_config(None, ["reference=clean"], section="train").train.reference == "clean"
    named = {"train.reference": "clean", "train.method": "openclip"}
    assert load_config(None, ["reference="], given=named, section="train").train.reference == ""


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "train:\nreference:\n"])
def test_empty_files_and_sections_are_defaults(tmp_path: Path, text: str):
    assert load(tmp_path, text) == load_config(None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datset: x", "unknown key 'datset'. Did you mean dataset?"),
        ("train: {batchsize: 3}", "unknown key 'train.batchsize'. Did you mean batch_size?"),
        ("reference: {modell: x}", "unknown key 'reference.modell'. Did you mean model?"),
        ("train: {method: fastclp}", "unknown method 'fastclp'. Did you mean fastclip?"),
        ("train: {batch_size: many}", "'train.batch_size': Input should be a valid integer"),
        ("train: {batch_size: 64.5}", "'train.batch_size': Input should be a valid integer"),
        ("train: {samples: 0}", "'train.samples': Input should be greater than or equal to 1 (got '0')"),
        ("train: 3", "The section 'train' holds no settings, but '3'"),
        ("dataset: [a, b]", "'dataset': Input should be a valid string"),
        ("- a\n- b", "The config file holds no settings, but a list"),
        ("train: {seed: 1", "my.yaml, line 1"),
        ("run: a\n\tdataset: b\n", "The config file is no YAML: found character"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_size", "sets nothing (--set)"),
        ("=3", "sets nothing (--set)"),
        ("trian.seed=3", "There is no section 'trian' for 'trian.seed'. Did you mean train?"),
        ("train.sead=3", "unknown key 'train.sead'. Did you mean seed?"),
    ],
)
def test_what_is_wrong_with_set_is_said(assignment: str, message: str):
    with pytest.raises(ConfigError) as error:
        load_config(None, [assignment])
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"run: caf\xe9\n")
    for name, message in {"none.yaml": "no such config file", "latin.yaml": "no UTF-8", ".": "cannot be read"}.items():
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / name)
