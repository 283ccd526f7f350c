from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.config import RunConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.models import create_model, save_export
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training import find_summary
from drrho_pipelines.compile import compile_pipelines
from drrho_pipelines.local import declared_parameters, run_local
from drrho_pipelines.mapping import pipeline_parameters
from drrho_pipelines.output import Output
from drrho_pipelines.seaweed import SeaweedServer

CONFIG = {
    "dataset": "scenes",
    "run": "steered",
    "ingest": {"source": "scenes", "samples": 96, "workers": 1, "heldout_fraction": 0.25, "groups": 3, "shard_samples": 20},
    "reference": {"model": "run:public", "workers": 2},
    "train": {"method": "drrho", "architecture": "drrho-nano", "batch_size": 16, "samples": 96, "warmup_steps": 1},
    "report": {"gallery": 2},
}


def run_again_by_command(config: dict[str, Any], endpoint: str, folder: Path) -> str:
    """The same run once more, as a user starts it; returns its log."""
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "drrho_pipelines.cli", "pipeline", "run", "--config", "my.yaml"]
    done = subprocess.run([*command, "-p", f"store_endpoint={endpoint}"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"result": "pipeline steering", "store": config["store"], "run": "steered"}
    return done.stderr


def events(log: str) -> set[str]:
    return {json.loads(line)["event"] for line in log.splitlines()}


def dataset_of(store: Store) -> dict[str, str]:
    """sha256 of all that ingest has left."""
    keys = [info.key for info in store.list("datasets/scenes/") if "/reference/" not in info.key]
    return {key: hashlib.sha256(store.read(key)).hexdigest() for key in keys}


def made_alone(folder: Path) -> dict[str, str]:
    """The same by one process."""
    alone = RunConfig.parse({**CONFIG, "ingest": {**CONFIG["ingest"], "groups": 1}, "store": str(folder)})
    ingest(alone.ingest, open_store(folder))
    return dataset_of(open_store(folder))


def test_the_compiled_pipeline_runs_whole_and_finds_what_is_done(
    s3_environment: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Through a real S3 server, with the endpoint as a parameter, as a cluster would give it."""
    store = open_store(f"{s3_environment.store_uri}/{uuid.uuid4().hex}")
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export("public"))
    (compiled,) = compile_pipelines(tmp_path / "dist", names=("steering",))
    config = RunConfig.parse({**CONFIG, "store": store.uri})
    parameters = pipeline_parameters(config, declared_parameters(compiled)) | {"store_endpoint": s3_environment.endpoint}
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    root, first = tmp_path / "root", io.StringIO()
    run_local(compiled, parameters, root, Output(first))
    written = {info.key: info.etag for info in store.list()}
    second = run_again_by_command({**CONFIG, "store": store.uri}, s3_environment.endpoint, tmp_path)

    manifest = load_manifest(store, "scenes")
    assert dataset_of(store) == made_alone(tmp_path / "alone")
    summary = find_summary("steered", store)
    assert summary is not None
    assert (summary.method, summary.samples_seen, summary.dataset_id) == ("drrho", 96, manifest.id)
    assert layout.reference_manifest("scenes", "run-public") in written
    for key in (
        layout.evaluation("steered", "scenes", "heldout"),
        layout.reference_evaluation("scenes", "run-public", "heldout"),
        layout.report("steered"),
    ):
        assert key in written
    groups = {json.loads(line).get("group") for line in first.getvalue().splitlines() if '"group_done"' in line}
    assert groups == {0, 1, 2}
    assert {"ingest_done", "reference_shared", "reference_published", "train_starts"} <= events(first.getvalue())
    assert {"ingest_found", "reference_found", "train_found"} <= events(second)
    after = {info.key: info.etag for info in store.list()}
    assert {key for key in after if after[key] != written.get(key)} <= {layout.report("steered")}

    (metrics, *_) = sorted(root.rglob("evaluate/executor_output.json"))
    scores = json.loads(metrics.read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert {"image_to_text_recall_at_1", "zero_shot_top_1", "reference_image_to_text_recall_at_1"} <= set(scores)
    assert all(0 <= score <= 1 for score in scores.values())
    for page in root.rglob("report/page"):
        assert page.read_text().lstrip().lower().startswith("<!doctype html")
