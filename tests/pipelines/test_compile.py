from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.config import load_config
from drrho_clip.errors import ConfigError
from drrho_components import IMAGE
from drrho_components.launch import JobConfig
from drrho_pipelines.compile import compile_pipelines, pipelines
from drrho_pipelines.local import check_parameters, declared_parameters
from drrho_pipelines.mapping import pipeline_parameters

OTHER_IMAGE = "registry.example:5000/team/drrho-clip@sha256:" + "0" * 64
SHARED = {
    **dict.fromkeys(("dataset", "run", "store", "store_endpoint", "store_secret"), "STRING"),
    **dict.fromkeys(("gpu_resource", "image_pull_secret"), "STRING"),
    **dict.fromkeys(("gpu_node_selector", "node_selector"), "STRUCT"),
    **dict.fromkeys(("gpu_tolerations", "tolerations"), "LIST"),
}
STUDIES = {"comparison", "data_efficiency", "scaling", "weak_to_strong"}
PREFIXES = ("data", "evaluate", "lease", "promote", "reference", "report", "study", "train")
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
    assert [key for key, parameter in declared.items() if "defaultValue" not in parameter] == []
    plain = {key: declared[key]["parameterType"] for key in declared if not key.startswith(tuple(f"{p}_" for p in PREFIXES))}
    assert plain == {key: kind for key, kind in SHARED.items() if key != "run" or name not in STUDIES}  # a study has a name
    assert {declared[key]["parameterType"] for key in declared if key not in plain} <= SCALARS


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


def test_every_later_step_depends_on_what_the_earlier_one_left(compiled: dict[str, Path]):
    tasks = documents(compiled["steering"])[0]["root"]["dag"]["tasks"]
    producers = {
        name: task["inputs"]["parameters"]["depends_on"]["taskOutputParameter"]["producerTask"]
        for name, task in tasks.items()
        if name != "ingest" and "triggerPolicy" not in task
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
        *("cpu", "memory", "gpus", "launcher", "store_endpoint", "node_selector", "tolerations"),
        *JobConfig.model_fields,
    }
    assert check_parameters(compiled["steering"], parameters) == parameters


def test_a_config_becomes_parameters_of_the_schedule_too(compiled: dict[str, Path]):
    asked = ["run=nightly", "ingest.groups=5", "reference.model=run:ref", "reference.workers=3", "train.samples=6400"]
    config = load_config(None, asked)
    parameters = pipeline_parameters(config, declared_parameters(compiled["continual"]))
    expected = {"run": "nightly", "data_groups": 5, "reference_workers": 3, "train_samples": 6400}
    assert expected.items() <= parameters.items()
    assert check_parameters(compiled["continual"], parameters) == parameters
    with pytest.raises(ConfigError, match=r"'train.initial' is 'run:x', but in a pipeline that step gets ''"):
        pipeline_parameters(load_config(None, ["train.initial=run:x"]), declared_parameters(compiled["continual"]))


def test_a_config_without_a_reference_has_no_reference_model(compiled: dict[str, Path]):
    config = load_config(None, ["train.method=openclip"])
    assert pipeline_parameters(config, declared_parameters(compiled["steering"]))["reference_model"] == ""


@pytest.mark.parametrize(
    "assignment",
    ["ingest.group=1", "train.dataset=other", "evaluate.run=other", "train.dataset_version=2", "report.runs=other"],
)
def test_settings_that_the_pipeline_makes_itself_are_refused(assignment: str, compiled: dict[str, Path]):
    config = load_config(None, ["ingest.groups=2", assignment])
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


WRONG = {
    ("train_batch_size", "0"): "'train_batch_size': Input should be greater than or equal to 2",
    ("train_method", "dhro"): "unknown method 'dhro'. Did you mean drrho",
    ("train_method", "drrho"): "method 'drrho' needs a reference",
    ("train_initial", "first"): "write run:NAME",
    ("data_source", "ftp"): "'data_source': Input should be 'folder'",
    ("data_groups", "0"): "'data_groups': Input should be greater than or equal to 1",
    ("data_groups", "65"): "'data_groups': Input should be less than or equal to 64",
    ("data_keep", "2"): "'data_keep': Input should be less than or equal to 1",
    (
        "evaluate_split",
        "[[ScheduledTime]]",
    ): r"'evaluate_split' holds \[\[ScheduledTime\]\], which Kubeflow Pipelines does not replace",
    ("run", "nightly-[[ScheduledTime.15-04]]"): "'run' holds",
    ("run", "a/b"): "'a/b' cannot be the name of a run",
    ("dataset", ""): "'' cannot be the name of a dataset",
    ("store_endpoint", "http://me:secret@weed:8333"): "Kubernetes secret",
    ("train_memory", "8 GB"): "'train_memory' is no quantity: '8 GB'. Write 4, 500m or 8Gi",
    ("train_gpus", "-1"): "'train_gpus' is no quantity",
    ("gpu_node_selector", '{"pool": 1}'): "'gpu_node_selector' has a value that is no text, at 'pool'",
    ("node_selector", "pool"): "'node_selector' takes a value of the type struct",
    ("tolerations", '{"key": "a"}'): "'tolerations' takes a value of the type list",
    ("gpu_tolerations", '[{"name": "a"}]'): "'gpu_tolerations' holds what is no toleration",
}


@pytest.mark.parametrize(("parameter", "message"), WRONG.items(), ids=[f"{name}={value}" for name, value in WRONG])
def test_values_that_no_step_takes_are_told_by_name_before_the_first_starts(
    parameter: tuple[str, str], message: str, compiled: dict[str, Path]
):
    with pytest.raises(ConfigError, match=message):
        check_parameters(compiled["steering"], dict([parameter]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("lease_minutes", 0, "'lease_minutes'"), ("promote_metric", "loss", "'promote_metric': a metric is mean_recall_at_5")],
)
def test_settings_of_the_schedule_are_checked_too(name: str, value: object, message: str, compiled: dict[str, Path]):
    with pytest.raises(ConfigError, match=message):
        check_parameters(compiled["continual"], {name: value})


def test_json_is_understood_as_text_and_as_itself(compiled: dict[str, Path]):
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    for given in (tolerations, json.dumps(tolerations)):
        assert check_parameters(compiled["steering"], {"gpu_tolerations": given}) == {"gpu_tolerations": tolerations}
    assert check_parameters(compiled["steering"], {"node_selector": '{"pool": "cpu"}'}) == {"node_selector": {"pool": "cpu"}}


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
