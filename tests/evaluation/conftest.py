"""What tests of suites share: published datasets, and a store with models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from suite_helpers import write_associations, write_classification, write_retrieval

from drrho_clip.models import create_model, save_export
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training.checkpoint import Checkpoints

SUITE = """
name: small
mean: small average
tasks:
  - {name: Shapes, metric: top_1, path: shapes, size: 60}
  - {name: Shapes by class, metric: mean_per_class_recall, path: shapes}
  - {name: Shapes F1, metric: macro_f1, path: shapes}
  - {name: Worst colour, metric: worst_group_top_5, path: shapes, group: 1, ignore_groups: ["2"]}
  - {name: Worst region, metric: worst_group_top_1, path: shapes, group: region}
  - {name: Captions, metric: mean_recall_at_1, path: captions, size: 24}
  - {name: Colours, metric: jaccard, path: colours, min_candidates: 10}
"""


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets as they are published: `shapes`, `captions` and `colours`."""
    folder = tmp_path_factory.mktemp("published")
    write_classification(folder / "wds_shapes_test")  # as DataComp's downloader names it
    write_retrieval(folder / "captions")
    write_associations(folder / "colours")
    (folder / "small.yaml").write_text(SUITE)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the untrained run `one`, and `trained` with checkpoints of three steps (of other seeds)."""
    folder = tmp_path_factory.mktemp("models")
    store = open_store(folder)
    torch.manual_seed(1)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export("one"))
    store.write(layout.run_config("trained"), yaml.safe_dump({"architecture": "drrho-nano", "batch_size": 16}).encode())
    for step in (10, 20, 300):
        torch.manual_seed(step)
        checkpoints = Checkpoints(store, "trained", keep=5)
        checkpoints.start(step, {"model": create_model("drrho-nano")}, {})
        checkpoints.finish()
    return folder


@pytest.fixture
def models_store(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of `models`, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_store(shutil.copytree(models, tmp_path / "store"))
