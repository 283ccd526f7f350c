"""A study as a pipeline, whole, on this machine."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from drrho_clip.config import load_config
from drrho_clip.errors import ConfigError
from drrho_clip.storage import Store, layout
from drrho_pipelines.check import check_settings
from drrho_pipelines.compile import compile_pipelines
from drrho_pipelines.local import declared_parameters, run_local
from drrho_pipelines.mapping import pipeline_parameters
from drrho_pipelines.output import Output

SETTINGS = [
    *("dataset=scenes", "ingest.source=scenes", "ingest.samples=96", "ingest.workers=1", "ingest.heldout_fraction=0.25"),
    *("train.method=openclip", "train.architecture=drrho-nano", "train.batch_size=16", "train.samples=32"),
    *("train.warmup_steps=1", "study.methods=openclip,fastclip", "study.seeds=3", "study.curve_points=0"),
]


def test_a_comparison_runs_whole(folder_store: Store, tmp_path: Path):
    (compiled,) = compile_pipelines(tmp_path / "dist", names=("comparison",))
    config = load_config(None, [*SETTINGS, f"store={folder_store.uri}"])
    shown = io.StringIO()
    run_local(compiled, pipeline_parameters(config, declared_parameters(compiled)), tmp_path / "root", Output(shown))
    events = [json.loads(line) for line in shown.getvalue().splitlines()]
    done = {record["run"] for record in events if record["event"] == "study_cell_done"}
    assert done == {"scenes-comparison-openclip-s3", "scenes-comparison-fastclip-s3"}
    for ending in ("json", "csv", "html"):
        assert folder_store.head(layout.study_result("scenes-comparison", ending)) is not None
    (page,) = (tmp_path / "root").rglob("study-report/page")
    assert page.read_bytes() == folder_store.read(layout.study_result("scenes-comparison", "html"))


def test_a_method_without_a_reference_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"The method 'drrho' needs a reference \(study_methods\)\. Set reference_model"):
        check_settings({"study_methods": "fastclip,drrho", "reference_model": ""})
    check_settings({"study_methods": "fastclip,drrho", "reference_model": "run:ref"})
