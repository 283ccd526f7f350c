from __future__ import annotations

import multiprocessing
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from ingest_helpers import TrappedStore, contents, folder_config, kill_this_process, numbered, refuse, write_pairs

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.writer import read_keys
from drrho_clip.errors import DataError, StorageError
from drrho_clip.storage import open_store

WRITES = 3 * 4 + 2  # three shards of three files each and what says that one is there, the version and manifest.json


@pytest.fixture
def config(tmp_path: Path) -> IngestConfig:
    return folder_config(write_pairs(tmp_path / "pets", numbered(20)), caption_noise=0.5, shard_samples=10)


@pytest.fixture
def whole(tmp_path: Path, config: IngestConfig) -> dict[str, bytes]:
    """What an undisturbed ingest leaves."""
    store = TrappedStore(tmp_path / "whole", 0, refuse)
    ingest(config, store)
    assert -store.left == WRITES
    return contents(store)


@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_killed_at_any_write_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, config: IngestConfig, whole: dict[str, bytes], number: int
) -> None:
    folder = tmp_path / "store"
    child = multiprocessing.get_context("fork").Process(
        target=ingest, args=(config, TrappedStore(folder, number, kill_this_process))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    store = open_store(folder)
    assert "datasets/pets/manifest.json" not in contents(store)
    ingest(config, store)
    assert contents(store) == whole


@pytest.mark.parametrize("number", [1, 4, WRITES - 2, WRITES])
def test_a_failed_upload_leaves_nothing_published(
    tmp_path: Path, config: IngestConfig, whole: dict[str, bytes], number: int
) -> None:
    with pytest.raises(StorageError, match="upload was refused"):
        ingest(config, TrappedStore(tmp_path / "store", number, refuse))
    store = open_store(tmp_path / "store")
    with pytest.raises(DataError, match="no dataset 'pets'"):
        load_manifest(store, "pets")
    ingest(config, store)
    assert contents(store) == whole


def test_what_another_ingest_left_unpublished_is_replaced(tmp_path: Path, config: IngestConfig) -> None:
    with pytest.raises(StorageError):
        ingest(config.model_copy(update={"seed": 9}), TrappedStore(tmp_path / "store", WRITES - 1, refuse))
    store = open_store(tmp_path / "store")
    manifest = ingest(config, store)
    manifest.check(store)
    assert sorted(
        sample.meta["key"] for shard in manifest.shards for sample in SampleReader(store, manifest).shard(shard)
    ) == sorted(numbered(20))


@pytest.mark.parametrize("number", range(1, WRITES))
@pytest.mark.parametrize("other", [{}, {"seed": 9}, {"shard_samples": 7}], ids=["same", "other-seed", "other-cut"])
def test_of_two_ingests_at_once_one_is_published_whole(
    tmp_path: Path, config: IngestConfig, number: int, other: dict[str, int]
) -> None:
    """The second runs from start to end within one write of the first, at every place where that can be."""
    store = open_store(tmp_path / "store")
    second = config.model_copy(update=other)
    first_store = TrappedStore(tmp_path / "store", number, lambda: ingest(second, store))
    if other:
        with pytest.raises(DataError, match=r"Another ingest|Something else wrote"):
            ingest(config, first_store)
    else:
        ingest(config, first_store)
    manifest = load_manifest(store, "pets")
    manifest.check(store)
    assert manifest.source["seed"] == second.seed
    reader = SampleReader(store, manifest)
    keys = [str(sample.meta["key"]) for shard in manifest.shards for sample in reader.shard(shard)]
    assert sorted(keys) == sorted(numbered(20))
    assert ingest(second, store) == manifest


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("last", [2, 3, 4, 6])
def test_an_ingest_that_wrote_over_another_and_died_spoils_nothing(
    tmp_path: Path, config: IngestConfig, number: int, last: int
) -> None:
    """The second runs up to its write `last` within one write of the first."""
    second = config.model_copy(update={"seed": 9})

    def disturb() -> None:
        with pytest.raises(StorageError, match="refused"):
            ingest(second, TrappedStore(tmp_path / "store", last, refuse))

    store = open_store(tmp_path / "store")
    with suppress(DataError):
        ingest(config, TrappedStore(tmp_path / "store", number, disturb))
    manifest = ingest(config, store)
    reader = SampleReader(store, manifest)
    assert sorted(str(s.meta["key"]) for shard in manifest.shards for s in reader.shard(shard)) == sorted(numbered(20))
    keys = [key for shard in manifest.shards for key in read_keys(store, manifest, shard)]
    assert keys == [reader.get(index).meta["key"] for index in range(20)]


def test_two_ingests_that_add_at_once(tmp_path: Path, config: IngestConfig) -> None:
    store = open_store(tmp_path / "store")
    ingest(config, store)
    write_pairs(Path(config.path), numbered(8, first=20))

    def add_more() -> None:
        write_pairs(Path(config.path), numbered(5, first=50))
        ingest(config, store)

    with pytest.raises(DataError, match="Another ingest"):
        ingest(config, TrappedStore(tmp_path / "store", 3, add_more))
    manifest = ingest(config, store)
    assert (manifest.version, manifest.total) == (2, 33)
    manifest.check(store)
