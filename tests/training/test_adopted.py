"""Training from adopted tars is training from a copy of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.features import FeatureReader
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest
from drrho_clip.evaluation import EvaluateConfig, Evaluation, evaluate
from drrho_clip.models import create_model, save_export
from drrho_clip.reference import ReferenceConfig, compute_reference
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.__main__ import main
from drrho_clip.verification.dataset import verify_dataset

SETTINGS = {
    "method": "drrho",
    "reference": "ref",
    "architecture": "drrho-nano",
    "batch_size": 16,
    "samples": 16 * 4,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "temperature": 0.1,
    "log_steps": 1,
    "augmentation": "shift",
}
COUNT, PER_TAR = 64, 32


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


@pytest.fixture
def tars(folder_store: Store, tmp_path: Path) -> Path:
    """Two tars of scenes outside of the store, in which an untrained model lies."""
    common = {"dataset": "x", "samples": COUNT, "shard_samples": PER_TAR, "heldout_fraction": 0.0}
    ingest(IngestConfig(source="scenes", image_size=32, workers=1, **common), folder_store)
    torch.manual_seed(0)
    save_export(create_model("drrho-nano"), "drrho-nano", folder_store, layout.export("ref"))
    return (tmp_path / "store/datasets/x/shards").rename(tmp_path / "tars")


def used(store: Store, tars: Path, dataset: str, *, adopt: bool) -> tuple[Manifest, Evaluation]:
    """Bring the tars in, compute a reference of them, train by it and evaluate."""
    common = {"source": "shards", "path": str(tars), "heldout_fraction": 0.0, "workers": 1, "shard_samples": PER_TAR}
    manifest = ingest(IngestConfig.parse({"dataset": dataset, "adopt": adopt, **common}), store)
    compute_reference(ReferenceConfig(dataset=dataset, model="run:ref", name="ref", pool=32), store)
    train(TrainConfig.parse({"run": dataset, "dataset": dataset, **SETTINGS}), store, launch=in_process)
    return manifest, evaluate(EvaluateConfig(dataset=dataset, run=dataset, split="train", classnames="none"), store)


def losses(store: Store, run: str) -> list[float]:
    return [json.loads(line)["loss"] for line in store.read(layout.run_metrics(run)).decode().splitlines()]


def test_features_losses_and_scores_are_those_of_a_copy(folder_store: Store, tars: Path) -> None:
    adopted, score = used(folder_store, tars, "web", adopt=True)
    copied, expected = used(folder_store, tars, "copy", adopt=False)
    ours, theirs = (FeatureReader(folder_store, m.name, "ref", m).get(np.arange(COUNT)) for m in (adopted, copied))
    assert torch.equal(ours, theirs)
    assert losses(folder_store, "web") == losses(folder_store, "copy")
    assert len(losses(folder_store, "web")) == 4
    assert score.retrieval == expected.retrieval
    found = verify_dataset(folder_store, "web")
    assert (found.problems, found.counts["references"], found.counts["features"]) == ([], 1, COUNT)
    assert [info.key for info in folder_store.list("datasets/web/shards/") if info.key.endswith(".tar")] == []
