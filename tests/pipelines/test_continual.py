"""The pipeline `continual`, whole: executions of one schedule, one after the other."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from drrho_clip.continual import Lease, find_promoted, take_lease
from drrho_clip.continual.promotion import find_decision
from drrho_clip.data.reference_manifest import load_reference_manifest
from drrho_clip.models import create_model, save_export
from drrho_clip.storage import Store, layout
from drrho_clip.training import find_summary, read_config
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


@pytest.mark.timeout(1200)  # some thirty steps, each a process of its own
def test_executions_of_a_schedule(folder_store: Store, tmp_path: Path):
    store, schedule = folder_store, Schedule(folder_store, tmp_path)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export("public"))

    take_lease(store, "nightly", "the one before", 3600)
    log = schedule.execute()
    assert log["step_skipped"]["reason"].startswith("the previous run, the one before, still works")
    assert list(store.list("datasets/")) == []

    crashed = held(store).model_copy(update={"expires": time.time() - 1})
    store.write(layout.lease("nightly"), crashed.model_dump_json().encode())
    log = schedule.execute()
    assert log["promotion_decided"]["why"] == "nothing was promoted before"
    first = find_promoted("nightly", store)
    assert first is not None
    assert (first.run, first.dataset_version, first.previous) == ("nightly-v1", 1, "")
    assert store.head(layout.report("nightly-v1")) is not None
    assert held(store).holder == ""

    before = {info.key: info.etag for info in store.list() if not info.key.startswith("leases/")}
    log = schedule.execute()
    assert log["step_skipped"]["reason"] == "nothing is new since version 1: 'nightly-v1' was promoted"
    assert {info.key: info.etag for info in store.list() if not info.key.startswith("leases/")} == before
    assert held(store).holder == ""

    schedule.execute(data_samples=120, promote_margin=-1.0)  # even a worse one is good enough
    second = find_promoted("nightly", store)
    assert second is not None
    assert (second.run, second.dataset_version, second.previous) == ("nightly-v2", 2, "nightly-v1")
    assert read_config("nightly-v2", store).initial == "run:nightly-v1"
    summary = find_summary("nightly-v2", store)
    assert summary is not None
    assert summary.dataset_version == 2
    assert load_reference_manifest(store, "scenes", "run-public").dataset_version == 2

    schedule.execute(data_samples=140, promote_margin=0.99)
    assert find_promoted("nightly", store) == second
    decision = find_decision("nightly-v3", store)
    assert decision is not None
    assert (decision.promoted, decision.previous) == (False, "nightly-v2")
    assert held(store).holder == ""
