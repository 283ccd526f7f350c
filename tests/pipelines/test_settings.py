from __future__ import annotations

from pathlib import Path

import pytest

from drrho_clip.errors import ConfigError
from drrho_pipelines.settings import DEFAULTS, METHODS, load_demo


def load(tmp_path: Path, text: str):
    (tmp_path / "study.yaml").write_text(text)
    return load_demo(tmp_path / "study.yaml")


def test_the_reference_sees_the_clean_part_and_the_methods_everything():
    settings = load_demo(None)
    reference = settings.reference_config("s")
    assert (reference.dataset, reference.ingest.caption_noise_part) == ("openmoji-clean", "clean")
    assert (reference.train.method, reference.train.reference) == ("openclip", "")
    for method in METHODS:
        config = settings.method_config("s", method)
        assert (config.dataset, config.ingest.caption_noise_part) == ("openmoji", "all")
        assert config.train.reference == "run-openmoji-reference"
        assert config.train.samples == reference.train.samples
    same = {"dataset", "caption_noise_part"}
    assert reference.ingest.model_dump(exclude=same) == config.ingest.model_dump(exclude=same)


def test_all_methods_are_evaluated_and_compared_on_the_same():
    settings = load_demo(None)
    comparison = settings.comparison_config("s")
    assert comparison.run_names == ("openmoji-openclip", "openmoji-fastclip", "openmoji-drrho")
    assert {settings.method_config("s", method).evaluate.label for method in METHODS} == {comparison.split}


def test_what_a_study_does_not_name_keeps_its_default(tmp_path: Path):
    settings = load(tmp_path, "name: mine\ntrain: {samples: 1000}\nmethods:\n  openclip:\n  drrho: {eps: 0.5}\n")
    assert settings.train == {**DEFAULTS["train"], "samples": "1000"}
    assert settings.methods == {"openclip": METHODS["openclip"], "drrho": {**METHODS["drrho"], "eps": "0.5"}}
    assert settings.method_config("s", "drrho").train.eps == 0.5


def test_every_seed_has_runs_of_its_own():
    first, second = load_demo(None), load_demo(None, seed=1)
    assert second.run_name("drrho") == "openmoji-drrho-seed1"
    assert second.method_config("s", "drrho").reference.model == "run:openmoji-reference-seed1"
    assert second.method_config("s", "drrho").train.seed == 1
    assert first.name == second.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nme: x", "unknown key 'nme'. Did you mean name?"),
        ("train: {sample: 3}", "unknown key 'train.sample'. Did you mean samples?"),
        ("methods: {drho: {}}", "unknown method 'drho'. Did you mean drrho?"),
        ("methods: {drrho: {temprature: 1}}", "unknown key 'train.temprature'. Did you mean temperature"),
        ("ingest: {dataset: x}", "'ingest.dataset' follows from `name`: leave it out"),
        ("train: 3", "'train'"),
        ("methods: drrho", "'methods'"),
    ],
)
def test_mistakes_are_found_before_anything_starts(text: str, message: str, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert message in str(error.value)
