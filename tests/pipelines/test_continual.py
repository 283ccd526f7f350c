"""The pipeline `continual`, whole: executions of one schedule, one after the other."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from drrho_clip.continual import PromoteConfig, find_promoted, promote
from drrho_clip.continual.promotion import find_decision
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.reference_manifest import load_reference_manifest
from drrho_clip.models import create_model, save_export
from drrho_clip.storage import Store, layout
from drrho_clip.storage.lease import Lease, take_lease
from drrho_clip.training import TrainConfig, find_summary, read_config, train
from drrho_pipelines.compile import compile_pipelines
from drrho_pipelines.local import run_local
from drrho_pipelines.output import Output

SETTINGS = {
    "run": "nightly",
    "dataset": "scenes",
    "data_source": "scenes",
    "data_samples": 96,
    "data_workers": 1,
    "data_heldout_fraction": 0.25,
    "reference_model": "run:public",
    "train_method": "drrho",
    "train_architecture": "drrho-nano",
    "train_batch_size": 16,
    "train_samples": 32,
    "train_warmup_steps": 1,
    "report_gallery": 0,
}


class Schedule:
    """Executes the compiled pipeline, always with the same parameters but for those that are given."""

    def __init__(self, store: Store, folder: Path) -> None:
        (self._compiled,) = compile_pipelines(folder / "dist", names=("continual",))
        self._store, self._root = store, folder / "root"

    def execute(self, **changed: Any) -> dict[str, dict[str, Any]]:
        """Run it to the end; return the last log line of each event."""
        shown = io.StringIO()
        run_local(self._compiled, {"store": self._store.uri, **SETTINGS, **changed}, self._root, Output(shown))
        return {record["event"]: record for record in map(json.loads, shown.getvalue().splitlines())}


def held(store: Store) -> Lease:
    return Lease.model_validate_json(store.read(layout.lease("nightly")))


@pytest.fixture
def store(folder_store: Store) -> Store:
    """A store with the model that is the reference."""
    save_export(create_model("drrho-nano"), "drrho-nano", folder_store, layout.export("public"))
    return folder_store


def first_version(store: Store) -> None:
    """What an execution leaves behind of the first 96 samples, made without the pipeline: the run nightly-v1, promoted."""
    settings = {"dataset": "scenes", "source": "scenes", "samples": 96, "heldout_fraction": 0.25, "workers": 1}
    ingest(IngestConfig.parse(settings), store)
    small = {"architecture": "drrho-nano", "batch_size": 16, "samples": 16, "warmup_steps": 0}
    train(TrainConfig.parse({"run": "nightly-v1", "dataset": "scenes", "method": "openclip", **small}), store)
    promote(PromoteConfig(name="nightly", run="nightly-v1", dataset="scenes"), store)


@pytest.mark.timeout(900)  # a dozen steps, each a process of its own
def test_one_execution_at_a_time_and_none_where_nothing_is_new(store: Store, tmp_path: Path):
    schedule = Schedule(store, tmp_path)
    take_lease(store, layout.lease("nightly"), "the one before", 3600)
    log = schedule.execute()
    assert log["step_skipped"]["reason"].startswith("the previous run, the one before, still works")
    assert list(store.list("datasets/")) == []

    crashed = held(store).model_copy(update={"expires": time.time() - 1})
    store.write(layout.lease("nightly"), crashed.model_dump_json().encode())
    log = schedule.execute()
    assert log["promotion_decided"]["why"] == "nothing was promoted before"
    found = find_promoted("nightly", store)
    assert found is not None
    assert (found.run, found.dataset_version, found.previous) == ("nightly-v1", 1, "")
    assert store.head(layout.report("nightly-v1")) is not None
    assert held(store).holder == ""

    before = {info.key: info.etag for info in store.list() if not info.key.startswith("leases/")}
    log = schedule.execute()
    assert log["step_skipped"]["reason"] == "nothing is new since version 1: 'nightly-v1' was promoted"
    assert {info.key: info.etag for info in store.list() if not info.key.startswith("leases/")} == before
    assert held(store).holder == ""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("margin", "promoted"), [(-1.0, True), (0.99, False)], ids=["promoted", "refused"])
def test_what_is_new_is_trained_on_from_the_promoted_run(margin: float, promoted: bool, store: Store, tmp_path: Path):
    """With a margin of -1 even a worse model is good enough, with 0.99 none is."""
    first_version(store)
    before = find_promoted("nightly", store)
    log = Schedule(store, tmp_path).execute(data_samples=120, data_groups=2, promote_margin=margin)
    assert (log["group_done"]["dataset"], log["ingest_done"]["samples"]) == ("scenes", 120)
    summary = find_summary("nightly-v2", store)
    assert summary is not None
    assert (summary.dataset_version, summary.samples_seen) == (2, 32)
    assert read_config("nightly-v2", store).initial == "run:nightly-v1"
    assert load_reference_manifest(store, "scenes", "run-public").dataset_version == 2
    decision = find_decision("nightly-v2", store)
    assert decision is not None
    assert (decision.promoted, decision.previous, decision.dataset_version) == (promoted, "nightly-v1", 2)
    found = find_promoted("nightly", store)
    assert found is not None
    assert (found.run, found.previous) == (("nightly-v2", "nightly-v1") if promoted else ("nightly-v1", ""))
    assert (found == before) is not promoted
    assert held(store).holder == ""
