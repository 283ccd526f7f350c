"""A dataset of 90 pictures in shards of 37 with keys that are no numbers, and a model to look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference_helpers import draw, settings

from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.models import create_model, save_export
from drrho_clip.reference import ReferenceConfig
from drrho_clip.storage import Store, layout, open_store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder that the dataset is made from."""
    draw(tmp_path / "pictures", 90)
    return tmp_path / "pictures"


@pytest.fixture
def store(tmp_path: Path, pictures: Path) -> Store:
    """A store with the dataset `cats` and the exported runs `one` and `two`."""
    opened = open_store(tmp_path / "store")
    ingest(settings(pictures), opened)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_export(create_model("drrho-nano"), "drrho-nano", opened, layout.export(name))
    return opened


@pytest.fixture
def manifest(store: Store) -> Manifest:
    """The dataset's manifest."""
    return load_manifest(store, "cats")


@pytest.fixture
def config() -> ReferenceConfig:
    """Features of `cats` by the run `one`."""
    return ReferenceConfig(dataset="cats", model="run:one", name="ref", batch_size=16, pool=20, decode_threads=2)
