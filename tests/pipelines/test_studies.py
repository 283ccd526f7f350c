"""Studies as pipelines, each run whole at the smallest size on this machine."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from drrho_clip.config import load_config
from drrho_clip.errors import ConfigError
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.studies import StudyConfig
from drrho_clip.studies.matrix import KINDS, study_arms
from drrho_clip.studies.results import StudyResult
from drrho_clip.training import TrainConfig, find_summary, read_config
from drrho_components.steps import under
from drrho_pipelines.check import check_settings
from drrho_pipelines.compile import compile_pipelines
from drrho_pipelines.local import declared_parameters, run_local
from drrho_pipelines.mapping import pipeline_parameters
from drrho_pipelines.output import Output

NEW = ("dataset=scenes", "ingest.source=scenes", "ingest.samples=96", "ingest.workers=1", "ingest.heldout_fraction=0.25")
SCENES = (  # as `scenes_folder` was made
    *("dataset=scenes", "ingest.source=scenes", "ingest.samples=400", "ingest.image_size=32", "ingest.shard_samples=90"),
    "ingest.workers=1",
)
TRAIN = ("train.method=openclip", "train.architecture=drrho-nano", "train.batch_size=16", "train.samples=32")
STUDY = ("train.warmup_steps=1", "study.seeds=3", "study.curve_points=0")
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def scenes(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with data and reference features, which all studies of this module find."""
    folder = tmp_path_factory.mktemp("studies") / "store"
    shutil.copytree(scenes_folder, folder)
    return open_store(folder)


def run_pipeline(name: str, store: Store, folder: Path, *settings: str) -> Events:
    """Run a pipeline whole; its log."""
    (compiled,) = compile_pipelines(folder / "dist", names=(name,))
    config = load_config(None, [*settings, f"store={store.uri}"])
    shown = io.StringIO()
    run_local(compiled, pipeline_parameters(config, declared_parameters(compiled)), folder / "root", Output(shown))
    return [json.loads(line) for line in shown.getvalue().splitlines()]


def runs_of(events: Events, event: str) -> list[str]:
    return sorted(record["run"] for record in events if record["event"] == event)


def result_of(store: Store, name: str, runs: list[str]) -> StudyResult:
    """What a study left: a result of all these runs, a line for each, and a page with its claims."""
    result = StudyResult.model_validate_json(store.read(layout.study_result(name, "json")))
    assert result.missing == ()
    assert sorted(run.run for arm in result.arms for run in arm.runs) == sorted(runs)
    rows = csv.DictReader(io.StringIO(store.read(layout.study_result(name, "csv")).decode()))
    assert sorted(row["run"] for row in rows) == sorted(runs)
    page = store.read(layout.study_result(name, "html")).decode()
    assert all(f'href="../../runs/{run}/report.html"' in page for run in runs)
    return result


def page_of(store: Store, name: str) -> str:
    return store.read(layout.study_result(name, "html")).decode()


def test_a_comparison_runs_whole(folder_store: Store, tmp_path: Path):
    events = run_pipeline("comparison", folder_store, tmp_path, *NEW, *TRAIN, *STUDY, "study.methods=openclip,fastclip")
    runs = ["scenes-comparison-fastclip-s3", "scenes-comparison-openclip-s3"]
    assert runs_of(events, "study_cell_done") == runs
    result_of(folder_store, "scenes-comparison", runs)
    (page,) = (tmp_path / "root").rglob("study-report/page")
    assert page.read_text() == page_of(folder_store, "scenes-comparison")


def test_shares_of_the_data_run_whole(scenes: Store, tmp_path: Path):
    reference = ("reference.model=run:ref", "reference.name=ref", "reference.pool=64")
    study = ("study.methods=fastclip,drrho", "study.fractions=0.5,1")
    events = run_pipeline("data_efficiency", scenes, tmp_path, *SCENES, *reference, *TRAIN, *STUDY, *study)
    assert {"ingest_found", "reference_found"} <= {record["event"] for record in events}
    name = "scenes-data-efficiency"
    runs = [f"{name}-{method}-{share}-s3" for method in ("drrho", "fastclip") for share in ("0.5", "1")]
    assert runs_of(events, "study_cell_done") == runs
    result = result_of(scenes, name, runs)
    assert [(arm.method, arm.data_fraction) for arm in result.arms if arm.reach] == [("fastclip", 0.5), ("drrho", 0.5)]
    assert read_config(f"{name}-drrho-0.5-s3", scenes).reference == "ref"
    assert "DRRho-CLIP reaches what FastCLIP" in page_of(scenes, name) or "does not reach what FastCLIP" in page_of(scenes, name)


def test_scaling_runs_whole(scenes: Store, tmp_path: Path):
    study = ("study.methods=openclip", "study.baseline=openclip", "study.budgets=32,1920,3840", "study.predict=1000")
    # what it was trained on, so that the error surely falls
    seen = ("train.learning_rate=0.001", "train.temperature=0.1", "evaluate.split=train", "study.measure=mean_recall_at_10")
    events = run_pipeline("scaling", scenes, tmp_path, *SCENES, *TRAIN, *STUDY, *study, *seen)
    name = "scenes-scaling"
    runs = sorted(f"{name}-openclip-drrho-nano-{samples}-s3" for samples in (32, 1920, 3840))
    assert runs_of(events, "study_cell_done") == runs
    (law,) = result_of(scenes, name, runs).laws
    assert law.problem == ""
    assert (len(law.used), law.left_out, law.b < 0) == (3, (), True)
    assert [found.compute for found in law.predictions] == [1000]
    assert "OpenCLIP: error = " in page_of(scenes, name)
    assert "At 1e+03 GFLOPs OpenCLIP is expected to err in" in page_of(scenes, name)


def test_a_weak_reference_steers_and_a_second_run_trains_nothing(scenes: Store, tmp_path: Path):
    study = ("study.methods=fastclip,drrho", "study.weak_architecture=drrho-nano", "train.architecture=drrho-tiny")
    settings = (*SCENES, *TRAIN, *STUDY, *study)
    name = "scenes-weak-to-strong"
    runs = [f"{name}-drrho-s3", f"{name}-fastclip-s3"]
    events = run_pipeline("weak_to_strong", scenes, tmp_path / "first", *settings)
    assert runs_of(events, "train_starts") == [*runs, f"{name}-reference"]
    assert runs_of(events, "study_cell_done") == runs
    (reference,) = result_of(scenes, name, runs).references
    assert (reference.name, reference.model) == (f"{name}-reference", "drrho-nano")
    trained = find_summary(f"{name}-drrho-s3", scenes)
    assert trained is not None
    assert (trained.reference, trained.samples_seen) == (f"{name}-reference", 32)
    assert "The reference (drrho-nano, 16 samples seen) reaches" in page_of(scenes, name)

    before = {info.key: info.etag for info in scenes.list("runs/")}
    again = run_pipeline("weak_to_strong", scenes, tmp_path / "second", *settings)
    assert runs_of(again, "train_starts") == []
    assert runs_of(again, "train_found") == [*runs, f"{name}-reference"]
    assert {info.key: info.etag for info in scenes.list("runs/")} == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_of_a_pipeline_are_a_study(kind: str, tmp_path: Path):
    (compiled,) = compile_pipelines(tmp_path, names=(kind,))
    defaults = {name: parameter.get("defaultValue") for name, parameter in declared_parameters(compiled).items()}
    check_settings(defaults)
    own = {name: value for name, value in under("study", defaults).items() if name in StudyConfig.model_fields}
    train = {name: value for name, value in under("train", defaults).items() if name in TrainConfig.model_fields}
    trained = TrainConfig.parse({**train, "method": "openclip", "reference": "its-own"})
    assert len(study_arms(kind, StudyConfig.parse(own), trained)) > 1


def test_a_method_without_a_reference_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"The method 'drrho' needs a reference \(study_methods\)\. Set reference_model"):
        check_settings({"study_methods": "fastclip,drrho", "reference_model": ""})
    check_settings({"study_methods": "fastclip,drrho", "reference_model": "run:ref"})
