"""Suites on datasets in the published layout: scores equal to plain loops, found again, drawn and compared."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import textwrap
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import structlog
import torch
from kfp import dsl
from sklearn.metrics import balanced_accuracy_score, f1_score, jaccard_score
from suite_helpers import SHAPES, TEMPLATES, settings, write_associations, write_classification, write_retrieval

from drrho_clip.cli import make_app, run_app
from drrho_clip.data.images import decode_image
from drrho_clip.evaluation.suite import SuiteResult, evaluate_suite, load_suite, work
from drrho_clip.evaluation.suite.config import METRICS
from drrho_clip.models import Encoder, load_model
from drrho_clip.report.suite import suite_plot, write_suite_plot
from drrho_clip.storage import Store, open_store
from drrho_components.evaluate import evaluate as component

DOCUMENT = Path(__file__).parents[2] / "docs/evaluation.md"


def pictures(encoder: Encoder, data: Sequence[bytes]) -> torch.Tensor:
    return encoder.encode_image(torch.stack([encoder.preprocess(decode_image(png)) for png in data]))


def texts(encoder: Encoder, captions: Sequence[str]) -> torch.Tensor:
    return encoder.encode_text(encoder.tokenize(list(captions)))


def expected(store: Store, tmp_path: Path) -> dict[str, float]:
    """The suite's values, sample by sample, from open_clip's classifier, scikit-learn and plain loops."""
    encoder = load_model("run:one", store)
    rows = write_classification(tmp_path / "again")
    templates = [template.replace("{c}", "{}") for template in TEMPLATES]
    classifier = open_clip.build_zero_shot_classifier(encoder.model, encoder.tokenizer, SHAPES, templates)
    logits = pictures(encoder, [png for png, _, _ in rows]) @ classifier
    labels, groups = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    order = logits.argsort(dim=1, descending=True).numpy()
    top = {k: (order[:, :k] == labels[:, None]).any(axis=1) for k in (1, 5)}
    return {
        "Shapes": top[1].mean(),
        "Shapes by class": balanced_accuracy_score(labels, order[:, 0]),
        "Shapes F1": f1_score(labels, order[:, 0], average="macro", labels=np.unique(labels), zero_division=0),
        "Worst colour": min(top[5][groups == group].mean() for group in (0, 1)),
        "Worst region": min(top[1][groups == group].mean() for group in (0, 1, 2)),
        "Captions": expected_recall(encoder, write_retrieval(tmp_path / "captions again")),
        "Colours": expected_jaccard(encoder, *write_associations(tmp_path / "colours again")),
    }


def expected_recall(encoder: Encoder, rows: list[tuple[bytes, list[str]]]) -> float:
    owner = np.repeat(np.arange(len(rows)), 3)
    similarity = (pictures(encoder, [png for png, _ in rows]) @ texts(encoder, [c for _, own in rows for c in own]).T).numpy()
    of_texts = [owner[similarity[row].argmax()] == row for row in range(len(rows))]
    of_images = [similarity[:, column].argmax() == owner[column] for column in range(len(owner))]
    return (np.mean(of_texts) + np.mean(of_images)) / 2


def expected_jaccard(encoder: Encoder, pngs: dict[str, bytes], rows: list[tuple[str, list[str], list[str]]]) -> float:
    found = []
    for cue, names, own in rows:
        if len(names) >= 10:
            prompt = f"{'An' if cue[0] in 'aeiou' else 'A'} {cue}"
            similarity = (pictures(encoder, [pngs[name] for name in names]) @ texts(encoder, [prompt])[0]).numpy()
            chosen = np.isin(np.arange(len(names)), np.argsort(similarity)[-len(own) :])
            found.append(jaccard_score([name in own for name in names], chosen))
    assert len(found) == 3
    return float(np.mean(found))


def test_every_kind_of_task_equals_plain_loops(published: Path, models_store: Store, tmp_path: Path):
    result, key = evaluate_suite(settings(published), models_store)
    (model,) = result.models
    values = expected(models_store, tmp_path)
    assert {task.task: task.value for task in model.tasks} == pytest.approx(values, abs=1e-6)
    assert len(set(values.values())) > 4  # not all nought
    assert (result.mean_name, model.mean) == ("small average", pytest.approx(sum(values.values()) / 7))
    assert result.missing == {}
    by_name = {task.task: task for task in model.tasks}
    assert (by_name["Shapes"].samples, by_name["Shapes"].classes) == (60, 8)
    assert (by_name["Captions"].samples, by_name["Captions"].captions) == (24, 72)
    assert {name: group.samples for name, group in by_name["Worst region"].groups.items()} == {
        "north": 20,
        "south": 20,
        "other": 20,
    }
    assert list(by_name["Worst colour"].groups) == ["0", "1"]
    assert key == "runs/one/suites/small/final"
    assert SuiteResult.model_validate_json(models_store.read(f"{key}.json")) == result
    table = list(csv.DictReader(io.StringIO(models_store.read(f"{key}.csv").decode())))
    assert [(row["task"], float(row["value"])) for row in table] == [
        *((task.task, task.value) for task in model.tasks),
        ("small average", model.mean),
    ]


def test_what_is_done_is_found_and_what_changed_is_done_again(
    published: Path, models_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = shutil.copytree(published, tmp_path / "data")
    measured: list[str] = []
    original = work._result
    monkeypatch.setattr(work, "_result", lambda job, found: (measured.append(job.task.name), original(job, found))[1])
    first, _ = evaluate_suite(settings(data), models_store)
    assert len(measured) == 7
    measured.clear()
    assert evaluate_suite(settings(data), models_store)[0] == first
    assert measured == []
    models_store.delete("runs/one/suites/small/tasks/final/Captions.json")
    assert evaluate_suite(settings(data), models_store)[0].scalars() == first.scalars()
    assert measured == ["Captions"]
    measured.clear()
    text = (data / "wds_shapes_test/zeroshot_classification_templates.txt").read_text()
    (data / "wds_shapes_test/zeroshot_classification_templates.txt").write_text(text + "a {c}\n")
    evaluate_suite(settings(data), models_store)
    assert measured == ["Shapes", "Shapes by class", "Shapes F1", "Worst colour", "Worst region"]
    measured.clear()
    evaluate_suite(settings(data, precision="bf16"), models_store)  # beside the others
    assert len(measured) == 7
    evaluate_suite(settings(data), models_store)
    assert len(measured) == 7


def test_pictures_are_decoded_and_classifiers_built_once(published: Path, models_store: Store, monkeypatch: pytest.MonkeyPatch):
    decoded: list[str] = []
    original = work._decode
    monkeypatch.setattr(work, "_decode", lambda item: (decoded.append(item.where), original(item))[1])
    built: list[object] = []
    build = open_clip.build_zero_shot_classifier
    monkeypatch.setattr(open_clip, "build_zero_shot_classifier", lambda *args, **kw: (built.append(args), build(*args, **kw))[1])
    evaluate_suite(settings(published, run="trained", checkpoints="all"), models_store)
    assert len(decoded) == len(set(decoded))  # for five tasks and three checkpoints
    assert len([where for where in decoded if "shapes" in where]) == 60
    assert len(built) == 3  # one for each checkpoint
    for info in list(models_store.list("runs/trained/suites/")):
        models_store.delete(info.key)
    evaluate_suite(settings(published, run="trained", checkpoints="all"), models_store)
    assert len(built) == 3
    assert len(decoded) == 2 * len(set(decoded))


def test_checkpoints_and_their_plot(published: Path, models_store: Store):
    result, key = evaluate_suite(settings(published, run="trained", checkpoints="all"), models_store)
    assert [(model.label, model.samples_seen) for model in result.models] == [
        ("step-00000010", 160),
        ("step-00000020", 320),
        ("step-00000300", 4800),
    ]
    assert len({model.mean for model in result.models}) == 3
    assert result.scalars()["small_average"] == result.models[-1].mean
    assert write_suite_plot(result, key, models_store) == [f"{key}.svg"]
    svg = xml.etree.ElementTree.fromstring(models_store.read(f"{key}.svg"))
    drawn = [path for path in svg.iter("{http://www.w3.org/2000/svg}path") if "L" in path.get("d", "")]
    assert len(drawn) == 1 + 7  # the mean and every task
    texts_of = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts_of.count("8") == 1  # a line is told by its number, without colour
    assert any(text.startswith("8 Colours (jaccard): from") for text in texts_of if text)
    plot = suite_plot(result)
    assert plot is not None
    assert [label for _, label in plot.colours][:2] == ["small average", "Shapes (top_1)"]
    assert plot.lines[0].path.count("L") == 2
    newest, _ = evaluate_suite(settings(published, run="trained", checkpoints="2"), models_store)
    assert newest.models == result.models[1:]
    last, _ = evaluate_suite(settings(published, run="trained", checkpoints="last"), models_store)
    assert last.models == result.models[2:]


def test_more_models_than_fit_together(published: Path, models_store: Store, monkeypatch: pytest.MonkeyPatch):
    together, _ = evaluate_suite(settings(published, run="trained", checkpoints="all"), models_store)
    for info in list(models_store.list("runs/trained/suites/")):
        models_store.delete(info.key)
    monkeypatch.setattr(work, "MODELS_AT_ONCE", 2)
    apart, _ = evaluate_suite(settings(published, run="trained", checkpoints="all"), models_store)
    assert [model.mean for model in apart.models] == pytest.approx([model.mean for model in together.models])


def test_tasks_without_data_are_named_and_in_no_mean(published: Path, models_store: Store, capsys: pytest.CaptureFixture[str]):
    tasks = "[Flickr, {name: Captions, path: captions, metric: text_recall_at_5}, {name: Nothing, path: none}]"
    (published / "mixed.yaml").write_text(f"name: mixed\nmean: full average\ntasks: {tasks}\n")
    result, _ = evaluate_suite(settings(published, published / "mixed.yaml"), models_store)
    assert result.missing == {"Flickr": "no data at flickr30k", "Nothing": "no data at none"}
    assert result.mean_name == "mean over 1 of 3 tasks, not the full average"
    assert result.models[0].mean == result.models[0].tasks[0].value
    assert set(result.scalars()) == {"mean_over_1_of_3_tasks_not_the_full_average", "mixed_captions_text_recall_at_5"}
    assert "suite_tasks_missing" in "".join(capsys.readouterr())
    assert result.to_csv().count("no data at") == 2


def test_a_suite_on_s3(published: Path, models_store: Store, s3_store: Store):
    for info in open_store(published).list():
        s3_store.upload(f"sets/{info.key}", published / info.key)
    here, _ = evaluate_suite(settings(published), models_store)
    uri = s3_store.uri_of("sets")
    for info in list(models_store.list("runs/one/suites/")):
        models_store.delete(info.key)
    there, _ = evaluate_suite(settings(uri, f"{uri}/small.yaml"), models_store)
    assert there.scalars() == here.scalars()
    assert there.models[0].tasks[0].dataset == f"{uri}/wds_shapes_test"


def test_by_the_command(published: Path, models_store: Store, capsys: pytest.CaptureFixture[str]):
    where = ["--store", models_store.uri, "--suite", str(published / "small.yaml"), "--data", str(published)]
    assert run_app(make_app(), ["evaluate", *where, "--run", "trained", "--checkpoints", "last", "--set", "batch_size=16"]) == 0
    one, files = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert one["result"] == "small of run trained step-00000300"
    assert one["samples_seen"] == 4800
    assert 0 <= one["small average"] <= 1
    assert files["missing"] == ""
    assert [name.rpartition(".")[2] for name in files["files"].split(", ")] == ["json", "csv", "svg"]
    assert all(Path(name).is_file() for name in files["files"].split(", "))


def test_by_the_component(published: Path, scenes_store: Store, tmp_path: Path):
    metrics = dsl.Metrics(name="metrics", uri=str(tmp_path / "metrics"), metadata={})
    arguments = {"run": "ref", "reference": "ref", "dataset": "scenes", "batch_size": 32}
    suite = {"suite": str(published / "small.yaml"), "suite_data": str(published)}
    component.python_func(metrics, store=scenes_store.uri, **arguments, **suite)
    assert {"zero_shot_top_1", "reference_zero_shot_top_1", "small_average", "small_shapes_top_1"} <= set(metrics.metadata)
    structlog.reset_defaults()  # a component sends its logs to the stderr of this one test


def test_a_model_by_its_name(published: Path, models_store: Store):
    weights = Path(models_store.uri) / "runs/one/export/open_clip_model.safetensors"
    named, key = evaluate_suite(settings(published, run="", model=f"drrho-nano:{weights}"), models_store)
    of_run, _ = evaluate_suite(settings(published), models_store)
    assert named.models[0].mean == of_run.models[0].mean
    assert key.startswith("models/drrho-nano-")


def test_the_commands_of_the_document(
    published: Path, models_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    shutil.move("store/runs/trained", "store/runs/first")
    shutil.copytree("store/runs/one/export", "store/runs/first/export")
    shutil.copytree(published, "sets")
    shutil.move("sets/colours", "sets/winogavil")
    document = DOCUMENT.read_text(encoding="utf-8")
    Path("my-suite.yaml").write_text(textwrap.dedent(re.findall(r"^    name: mine\n(?:    .*\n)+", document, re.MULTILINE)[0]))
    commands = re.findall(r"^    drrho (evaluate .*)$", document, re.MULTILINE)
    assert [run_app(make_app(), [*shlex.split(command), "--set", "batch_size=16"]) for command in commands] == [0, 0]
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert "mean over 1 of 38 tasks, not the DataComp average" in shown[0]
    assert [line["result"] for line in shown[2:]] == [*(f"mine of run first step-{n:08d}" for n in (10, 20, 300)), "suite mine"]
    assert "our average" in shown[-2]
    for pattern in ("final.json", "checkpoints.svg"):
        assert list(Path("store/runs/first/suites").glob(f"*/{pattern}"))


def test_the_38_tasks_of_datacomp():
    suite = load_suite("datacomp")
    assert len(suite.tasks) == 38
    assert suite.mean_name(38) == "DataComp average"
    assert suite.mean_name(37) == "mean over 37 of 38 tasks, not the DataComp average"
    counts = {metric: sum(task.metric == metric for task in suite.tasks) for metric in METRICS}
    assert {metric: count for metric, count in counts.items() if count} == {
        "top_1": 27,
        "mean_per_class_recall": 4,
        "mean_recall_at_1": 2,
        "worst_group_top_1": 2,
        "worst_group_top_5": 1,
        "macro_f1": 1,
        "jaccard": 1,
    }
    assert sum(task.size or 0 for task in suite.tasks) > 600_000
