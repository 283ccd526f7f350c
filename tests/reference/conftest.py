"""A dataset of 90 pictures in shards of 37 with keys that are no numbers, and a model to look at it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from reference_helpers import SETTINGS, draw

from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.models import create_model, save_export
from drrho_clip.reference import ReferenceConfig
from drrho_clip.storage import Store, layout, open_store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures`, and `store`: the dataset `cats` made of them, and the exported runs `one` and `two`."""
    folder = tmp_path_factory.mktemp("reference")
    draw(folder / "pictures", 90)
    opened = open_store(folder / "store")
    with contextlib.chdir(folder):
        ingest(SETTINGS, opened)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_export(create_model("drrho-nano"), "drrho-nano", opened, layout.export(name))
    return folder


@pytest.fixture
def pictures(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the dataset is made from; SETTINGS lead to it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(template / "pictures", tmp_path / "pictures")


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Store:
    """A store with the dataset `cats` and the exported runs `one` and `two`."""
    return open_store(shutil.copytree(template / "store", tmp_path / "store"))


@pytest.fixture
def manifest(store: Store) -> Manifest:
    """The dataset's manifest."""
    return load_manifest(store, "cats")


@pytest.fixture
def config() -> ReferenceConfig:
    """Features of `cats` by the run `one`."""
    return ReferenceConfig(dataset="cats", model="run:one", name="ref", batch_size=16, pool=20, decode_threads=2)
