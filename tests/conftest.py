"""What tests of every room share: a real S3 server, and stores of both kinds."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from drrho_clip.storage import Store, open_store
from drrho_pipelines.seaweed import SeaweedServer


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running SeaweedFS, one for the whole session."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3_environment(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> SeaweedServer:
    """The server, with this process's environment leading to it."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed


@pytest.fixture
def s3_store(s3_environment: SeaweedServer) -> Store:
    """An empty store on the server, at a prefix of its own."""
    return open_store(f"{s3_environment.store_uri}/{uuid.uuid4().hex}")


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return open_store(tmp_path / "store")


@pytest.fixture(params=["folder_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store of each kind in turn."""
    result: Store = request.getfixturevalue(request.param)
    return result


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder store with the dataset `scenes` (generated, 32 pixels) and the features `ref` of an untrained model, run `ref`."""
    import torch

    from drrho_clip.data.config import IngestConfig
    from drrho_clip.data.ingest import ingest
    from drrho_clip.models import create_model, save_export
    from drrho_clip.reference import ReferenceConfig, compute_reference
    from drrho_clip.storage import layout

    folder = tmp_path_factory.mktemp("scenes")
    store = open_store(folder)
    ingest(IngestConfig(dataset="scenes", source="scenes", samples=400, image_size=32, shard_samples=90, workers=1), store)
    torch.manual_seed(0)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export("ref"))
    compute_reference(ReferenceConfig(dataset="scenes", model="run:ref", name="ref", pool=64), store)
    return folder


@pytest.fixture
def scenes_store(scenes_folder: Path, tmp_path: Path) -> Store:
    """A copy of `scenes_folder` for one test."""
    shutil.copytree(scenes_folder, tmp_path / "scenes")
    return open_store(tmp_path / "scenes")
