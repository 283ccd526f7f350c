from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.config import load_config
from drrho_clip.errors import ConfigError
from drrho_components import IMAGE
from drrho_pipelines.compile import compile_pipelines, pipelines
from drrho_pipelines.local import check_parameters, declared_parameters
from drrho_pipelines.mapping import pipeline_parameters

OTHER_IMAGE = "registry.example:5000/team/drrho-clip@sha256:" + "0" * 64
SHARED = {"dataset": "STRING", "run": "STRING", "store": "STRING", "store_endpoint": "STRING", "store_secret": "STRING"}
PREFIXES = ("data", "evaluate", "reference", "report", "train")
SCALARS = {"STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {file.stem: file for file in compile_pipelines(tmp_path_factory.mktemp("dist"))}


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text()))


def test_there_is_one_file_per_pipeline(compiled: dict[str, Path]):
    assert set(compiled) == set(pipelines())


@pytest.mark.parametrize("name", pipelines())
def test_parameters_are_flat_scalars_with_defaults_and_the_prefix_of_their_step(name: str, compiled: dict[str, Path]):
    declared = declared_parameters(compiled[name])
    assert {parameter["parameterType"] for parameter in declared.values()} <= SCALARS
    assert [key for key, parameter in declared.items() if "defaultValue" not in parameter] == []
    plain = {key: declared[key]["parameterType"] for key in declared if not key.startswith(tuple(f"{p}_" for p in PREFIXES))}
    assert plain == SHARED


def test_steering_has_these_parameters(compiled: dict[str, Path]):
    """The form and everybody's scripts know them by name: a name that goes or comes is a change that users see."""
    golden = (Path(__file__).parent / "steering_parameters.txt").read_text().split()
    assert sorted(declared_parameters(compiled["steering"])) == golden


@pytest.mark.parametrize("name", pipelines())
def test_resources_are_text(name: str, compiled: dict[str, Path]):
    """The server takes a number for no request at all, silently."""
    declared = declared_parameters(compiled[name])
    resources = [key for key in declared if re.search(r"_(cpu|memory|gpus)$", key)]
    assert resources
    assert {declared[key]["parameterType"] for key in resources} == {"STRING"}


def test_the_image_is_given_once(tmp_path: Path, compiled: dict[str, Path]):
    for image, files in {IMAGE: compiled.values(), OTHER_IMAGE: compile_pipelines(tmp_path, OTHER_IMAGE)}.items():
        for file in files:
            executors = documents(file)[0]["deploymentSpec"]["executors"].values()
            assert {executor["container"]["image"] for executor in executors} == {image}


def test_compiling_again_gives_the_same_bytes(tmp_path: Path, compiled: dict[str, Path]):
    for file in compile_pipelines(tmp_path):
        assert file.read_bytes() == compiled[file.stem].read_bytes()


def test_nothing_of_this_machine_and_no_secret_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://endpoint-of-mine:1234")
    for file in compile_pipelines(tmp_path):
        text = file.read_text()
        for word in ("of-mine", str(Path.home()), str(Path(__file__).parents[2]), str(tmp_path)):
            assert word not in text
        assert "pip install" not in text


def test_secrets_are_named_and_may_be_absent(compiled: dict[str, Path]):
    for file in compiled.values():
        steps = documents(file)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
        assert len(steps) == len(documents(file)[0]["deploymentSpec"]["executors"])
        for step in steps:
            (secret,) = step["secretAsEnv"]
            assert secret["secretNameParameter"] == {"componentInputParameter": "store_secret"}
            assert secret["optional"] is True
            assert {key["envVar"] for key in secret["keyToEnv"]} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_only_the_step_that_looks_outside_is_never_cached(compiled: dict[str, Path]):
    tasks = documents(compiled["steering"])[0]["root"]["dag"]["tasks"]
    assert {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")} == {"ingest"}


def test_every_later_step_depends_on_what_the_earlier_one_left(compiled: dict[str, Path]):
    tasks = documents(compiled["steering"])[0]["root"]["dag"]["tasks"]
    producers = {
        name: task["inputs"]["parameters"]["depends_on"]["taskOutputParameter"]["producerTask"]
        for name, task in tasks.items()
        if name != "ingest"
    }
    assert producers == {"reference": "ingest", "train": "reference", "evaluate": "train", "report": "evaluate"}


def test_a_config_becomes_parameters(compiled: dict[str, Path]):
    declared = declared_parameters(compiled["steering"])
    config = load_config(None, ["dataset=pets", "reference.model=run:ref", "train.batch_size=64", "evaluate.candidates=all"])
    parameters = pipeline_parameters(config, declared)
    expected = {"dataset": "pets", "reference_model": "run:ref", "train_batch_size": 64, "evaluate_candidates": "all"}
    assert expected.items() <= parameters.items()
    left_out = {key for key in declared if key not in parameters}
    assert {re.sub(r"^(data|reference|train|evaluate|report)_", "", key) for key in left_out} == {
        *("cpu", "memory", "gpus", "launcher", "nodes", "processes", "store_endpoint", "store_secret")
    }
    assert check_parameters(compiled["steering"], parameters) == parameters


def test_a_config_without_a_reference_has_no_reference_model(compiled: dict[str, Path]):
    config = load_config(None, ["train.method=openclip"])
    assert pipeline_parameters(config, declared_parameters(compiled["steering"]))["reference_model"] == ""


@pytest.mark.parametrize(
    "assignment", ["train.dataset=other", "evaluate.run=other", "train.dataset_version=2", "reference.workers=2"]
)
def test_settings_that_the_pipeline_makes_itself_are_refused(assignment: str, compiled: dict[str, Path]):
    config = load_config(None, [assignment])
    with pytest.raises(ConfigError, match=f"'{assignment.split('=')[0]}' is .*in a pipeline that step gets"):
        pipeline_parameters(config, declared_parameters(compiled["steering"]))


@pytest.mark.parametrize(
    ("value", "understood"), [(5, 5), (5.0, 5), ("5", 5), ("5.0", 5), ("5.5", None), ("five", None), (None, None)]
)
def test_whole_numbers_are_understood_in_any_form(value: object, understood: int | None, compiled: dict[str, Path]):
    if understood is None:
        with pytest.raises(ConfigError, match="'train_seed' takes a value of the type integer"):
            check_parameters(compiled["steering"], {"train_seed": value})
    else:
        assert check_parameters(compiled["steering"], {"train_seed": value}) == {"train_seed": understood}


@pytest.mark.parametrize("text", [None, "", "a: 1", "- 1", "a: [", "root: {}"])
def test_what_is_no_compiled_pipeline_is_said(text: str | None, tmp_path: Path):
    file = tmp_path / "p.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"no such pipeline file|no compiled pipeline"):
        declared_parameters(file)


@pytest.mark.parametrize("image", ["", "two words", "UPPER/case", "x\ny", "name:tag@sha256:1"])
def test_unusable_images_are_refused_before_anything_is_written(image: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="is no image"):
        compile_pipelines(tmp_path / "dist", image)
    assert not (tmp_path / "dist").exists()
