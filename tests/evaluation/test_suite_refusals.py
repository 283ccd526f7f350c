"""What suites refuse: each with one clear error, and nothing left that counts as a result."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from suite_helpers import SHAPES, class_texts, encode, scenes, settings, write_published

from drrho_clip.cli import make_app, run_app
from drrho_clip.errors import ConfigError, DataError, ModelError
from drrho_clip.evaluation import EvaluateConfig
from drrho_clip.evaluation.suite import evaluate_suite
from drrho_clip.evaluation.suite.published import open_published
from drrho_clip.storage import Store, layout

TEMPLATES = "zeroshot_classification_templates.txt"


def spoil_text(name: str, text: str | None) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)

    return spoil


def samples_of(*parts: dict[str, bytes], kind: str = "classification") -> Callable[[Path], None]:
    """Replace the dataset by samples of one scene each."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder)
        drawn = [{"png": png, **part} for (_, png), part in zip(scenes(len(parts)), parts, strict=True)]
        write_published(folder, drawn, class_texts() | {"dataset_type.txt": kind}, tars=1)

    return spoil


def cut_tar(folder: Path) -> None:
    path = folder / "test/1.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def without_tars(folder: Path) -> None:
    shutil.rmtree(folder / "test")


BAD_DATA = {
    "a tar with more classes than classnames": (spoil_text("classnames.txt", "a\nb\n"), "has no name: classnames.txt holds 2"),
    "classnames twice": (spoil_text("classnames.txt", "circle\nring\ncircle\n"), "'circle' given more than once.*classnames.txt"),
    "a blank classname": (spoil_text("classnames.txt", "circle\n\nring\n"), "Line 2 is blank .*classnames.txt"),
    "no classnames": (spoil_text("classnames.txt", None), "There is no classnames.txt"),
    "no templates": (spoil_text(TEMPLATES, None), "no zeroshot_classification_templates.txt"),
    "a template without a place": (spoil_text(TEMPLATES, "a photo\n"), "'a photo' needs {} once"),
    "empty templates": (spoil_text(TEMPLATES, "\n"), "zeroshot_classification_templates.txt is empty"),
    "no test tars": (without_tars, r"The dataset has no test/\*.tar"),
    "a tar missing": (spoil_text("test/1.tar", None), "nshards.txt says 2 tars, 1 are there"),
    "a tar cut short": (cut_tar, r"The tar is broken at byte \d+: .*1.tar"),
    "another kind": (spoil_text("dataset_type.txt", "retrieval"), "is for classification; the dataset is for retrieval"),
    "another size": (samples_of({"cls": b"1"}, {"cls": b"2"}), "'Shapes' is of 60 samples, 2 are there"),
    "no label": (samples_of({"txt": b"1"}), "The sample has no .cls, only an image and .txt .*s0000000"),
    "a label in words": (samples_of({"cls": b"circle"}), "'circle' is no class number"),
    "no image": (samples_of({"jpg": encode(scenes(1)[0][1], "jpg"), "cls": b"1"}), "more than one image: .cls, .jpg, .png"),
    "a broken image": (samples_of({"cls": b"1"}, {"cls": b"1", "png": b"\x89PNG\r\n\x1a\n"}), "The picture cannot be decoded"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_datasets(spoil: Callable[[Path], None], message: str, published: Path, models_store: Store, tmp_path: Path):
    data = shutil.copytree(published, tmp_path / "data")
    spoil(data / "wds_shapes_test")
    (data / "one.yaml").write_text("- {name: Shapes, path: shapes, size: 60}")
    with pytest.raises((DataError, ConfigError), match=message):
        evaluate_suite(settings(data, data / "one.yaml"), models_store)
    assert list(models_store.list("runs/one/suites/")) == []


@pytest.mark.parametrize("text", [b"", b"\n \n"])
def test_missing_captions(text: bytes, published: Path, models_store: Store, tmp_path: Path):
    (tmp_path / "data/captions").mkdir(parents=True)
    samples_of({"txt": b"a circle"}, {"txt": text}, kind="retrieval")(tmp_path / "data/captions")
    (tmp_path / "data/one.yaml").write_text("- {name: Captions, path: captions, metric: image_recall_at_1}")
    with pytest.raises(DataError, match=r"The sample has no captions .*0.tar: s0000001"):
        evaluate_suite(settings(tmp_path / "data", tmp_path / "data/one.yaml"), models_store)


BAD_GROUPS = {
    "no numbers": ({"cls": b"1"}, "0", "has no .npy"),
    "no such column": ({"cls": b"1", "npy": "two"}, "2", "has 2 numbers, none of column 2"),
    "no array": ({"cls": b"1", "npy": b"no"}, "0", "The .npy cannot be read"),
    "no such key": ({"cls": b"1", "json": b'{"a": 1}'}, "region", "The .json has no 'region' to group by"),
    "no JSON": ({"cls": b"1", "json": b"{"}, "region", "The .json cannot be read"),
}


@pytest.mark.parametrize(("part", "group", "message"), BAD_GROUPS.values(), ids=BAD_GROUPS)
def test_bad_groups(part: dict[str, bytes | str], group: str, message: str, published: Path, models_store: Store, tmp_path: Path):
    numbers = io.BytesIO()
    np.save(numbers, np.array([1, 2]))
    parts = {ending: numbers.getvalue() if data == "two" else data for ending, data in part.items()}
    (tmp_path / "data/shapes").mkdir(parents=True)
    samples_of(parts)(tmp_path / "data/shapes")
    (tmp_path / "one.yaml").write_text(f"- {{name: S, path: shapes, metric: worst_group_top_1, group: '{group}'}}")
    with pytest.raises(DataError, match=message):
        evaluate_suite(settings(tmp_path / "data", tmp_path / "one.yaml"), models_store)


BAD_SUITES = {
    "an unknown suite": ("datcomp", None, "There is no such suite.*Did you mean datacomp?"),
    "an unknown task": ("s.yaml", "[ImagNet 1k]", "There is no task 'ImagNet 1k' .*Did you mean ImageNet 1k"),
    "an unknown metric": ("s.yaml", "[{name: a, metric: top1}]", "'tasks.0.metric': unknown metric. Did you mean top_1"),
    "an unknown key": ("s.yaml", "[{name: a, metrc: top_1}]", "unknown key 'tasks.0.metrc'"),
    "a name twice": ("s.yaml", "[{name: a b}, {name: A-B}]", "tasks need names of their own: a b, A-B"),
    "no group": ("s.yaml", "[{name: a, metric: worst_group_top_1}]", "worst_group_top_1 needs `group`"),
    "no tasks": ("s.yaml", "tasks: []", "'tasks'"),
    "no YAML": ("s.yaml", "[", "The suite is no YAML"),
    "no list": ("s.yaml", "3", "The suite holds no tasks"),
    "no data": ("s.yaml", "[{name: a}]", "None of the 1 tasks of the suite 's' has data there"),
}


@pytest.mark.parametrize(("suite", "text", "message"), BAD_SUITES.values(), ids=BAD_SUITES)
def test_bad_suites(
    suite: str, text: str | None, message: str, models_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if text is not None:
        suite = str(tmp_path / suite)
        Path(suite).write_text(text)
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate_suite(settings(tmp_path / "nothing", suite), models_store)
    command = ["evaluate", "--store", models_store.uri, "--run", "one", "--suite", suite, "--data", str(tmp_path / "nothing")]
    assert run_app(make_app(), command) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": ""}, "suite_data is for a suite, and none is set"),
        ({"suite_data": ""}, "suite 'datacomp' needs suite_data"),
        ({"checkpoints": "first"}, "'checkpoints'"),
        ({"run": "", "model": "ViT-B-32/openai", "checkpoints": "all"}, "checkpoints are those of a run"),
        ({"run": "", "reference": "x"}, "a suite is evaluated with a run or a model"),
    ],
)
def test_bad_settings(changes: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig.parse({"run": "one", "suite": "datacomp", "suite_data": "here"} | changes)


def test_a_checkpoint_of_another_architecture(published: Path, models_store: Store):
    models_store.write(layout.run_config("trained"), yaml.safe_dump({"architecture": "drrho-tiny", "batch_size": 16}).encode())
    with pytest.raises(ModelError, match=r"of another architecture than its run's, drrho-tiny: .*step-00000300/model"):
        evaluate_suite(settings(published, run="trained", checkpoints="last"), models_store)


def test_checkpoints_that_are_not_there_or_damaged(published: Path, models_store: Store):
    with pytest.raises(ModelError, match=r"Run 'trainde' has no checkpoints.*Did you mean trained"):
        evaluate_suite(settings(published, run="trainde", checkpoints="all"), models_store)
    models_store.write(f"{layout.checkpoint('trained', 300)}/model.safetensors", b"else")
    with pytest.raises(ModelError, match="Checkpoint 300 of run 'trained' is damaged"):
        evaluate_suite(settings(published, run="trained", checkpoints="last"), models_store)


def test_too_few_classes_for_a_metric(published: Path, models_store: Store, tmp_path: Path):
    names = SHAPES[:3]
    drawn = [{"png": png, "cls": str(index % 3).encode()} for index, (_, png) in enumerate(scenes(6))]
    write_published(tmp_path / "few", drawn, class_texts(names))
    (tmp_path / "one.yaml").write_text("- {name: Few, path: few}")
    result, _ = evaluate_suite(settings(tmp_path, tmp_path / "one.yaml"), models_store)
    assert set(result.models[0].tasks[0].scores) == {"top_1", "mean_per_class_recall", "macro_f1"}
    (tmp_path / "one.yaml").write_text("- {name: Few, path: few, metric: top_5}")
    with pytest.raises(DataError, match="'Few' says nothing by top_5"):
        evaluate_suite(settings(tmp_path, tmp_path / "one.yaml"), models_store)


def test_class_names_published_twice(published: Path, models_store: Store, tmp_path: Path):
    data = shutil.copytree(published, tmp_path / "data")
    spoil_text("classnames.txt", "\n".join([*SHAPES[:7], "circle"]) + "\n")(data / "wds_shapes_test")
    (data / "one.yaml").write_text("- {name: Shapes, path: shapes, duplicate_classnames: true}")
    result, _ = evaluate_suite(settings(data, data / "one.yaml"), models_store)
    assert result.models[0].tasks[0].classes == 8


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("winogavil_images.zip", b"PK\x03\x04", "The archive cannot be read"),
        ("winogavil_images.zip", None, "There is no winogavil_images.zip"),
        ("winogavil_dataset.csv", b"cue,candidates\n", "There is no column associations"),
        ("winogavil_dataset.csv", b"cue,candidates,associations\nred,a b,[]\n", "'a b' is no list of picture names .*row 1"),
        ("winogavil_dataset.csv", b"cue,candidates,associations\nred,\"['a']\",\"['b']\"\n", "some of them as its associations"),
        ("winogavil_dataset.csv", b"cue,candidates,associations\nred,\"['a']\",\"['a']\"\n", "There is no picture 'a'"),
        ("winogavil_dataset.csv", b"cue,candidates,associations\n", "No cue has 0 candidate pictures"),
    ],
)
def test_bad_associations(name: str, data: bytes | None, message: str, published: Path, models_store: Store, tmp_path: Path):
    folder = shutil.copytree(published / "colours", tmp_path / "colours")
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    (tmp_path / "one.yaml").write_text("- {name: Colours, path: colours, metric: jaccard}")
    with pytest.raises(DataError, match=message):
        evaluate_suite(settings(tmp_path, tmp_path / "one.yaml"), models_store)


def test_names_by_which_datasets_are_published(tmp_path: Path):
    for folder in ("wds_vtab-pets_test", "wds_vtab-dtd", "vtab/flowers"):
        write_published(tmp_path / folder, [{"png": png, "cls": b"0"} for _, png in scenes(1)], class_texts(), tars=1)
    for folder in ("vtab/pets", "vtab/dtd", "vtab/flowers", str(tmp_path / "wds_vtab-dtd")):
        found = open_published(str(tmp_path), folder)
        assert found is not None
        assert len(list(found.samples())) == 1
    assert open_published(str(tmp_path), "vtab/cars") is None
