from __future__ import annotations

import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ingest_helpers import folder_config, numbered, write_pairs

from drrho_clip.data import ahead
from drrho_clip.data.cache import SizedCache
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.errors import DataError
from drrho_clip.storage import Store, layout
from drrho_clip.storage.local import LocalStore


class CountingStore(LocalStore):
    """A folder that keeps the ranges that were asked for."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.ranges: list[tuple[str, int, int]] = []

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        self.ranges.append((key, start, length))
        return super().read_range(key, start, length, etag=etag)


@pytest.fixture
def counted(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def manifest(counted: CountingStore, tmp_path: Path) -> Manifest:
    source = write_pairs(tmp_path / "pets", numbered(45))
    return ingest(folder_config(source, shard_samples=16), counted)


def pairs(reader: SampleReader, indices: range) -> list[tuple[str, str]]:
    return [(reader.get(i).meta["key"], reader.get(i).caption) for i in indices]


def test_every_sample_is_its_own_pair(counted: CountingStore, manifest: Manifest) -> None:
    reader = SampleReader(counted, manifest)
    reader.check()
    samples = [reader.get(i) for i in range(manifest.total)]
    assert [sample.index for sample in samples] == list(range(45))
    assert sorted(sample.meta["key"] for sample in samples) == sorted(numbered(45))
    assert all(sample.caption == f"a picture of {sample.meta['key']}" for sample in samples)
    assert [s for shard in manifest.shards for s in reader.shard(shard)] == samples


def test_runs_are_read_once_and_only_where_needed(
    counted: CountingStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "RUN_SAMPLES", 5)
    reader = SampleReader(counted, manifest)
    assert [reader.get(i).index for i in (3, 0, 4, 1, 3)] == [3, 0, 4, 1, 3]
    assert len(counted.ranges) == 1
    assert counted.ranges[0][2] < manifest.shards[0].bytes / 2
    reader.get(5)
    reader.get(44)
    assert len(counted.ranges) == 3


def test_samples_are_fetched_alone_where_the_dataset_is_larger_than_the_cache(counted: CountingStore, manifest: Manifest) -> None:
    reader = SampleReader(counted, manifest, cache_bytes=1)
    assert [reader.get(index).index for index in (0, 44, 0, 44)] == [0, 44, 0, 44]
    assert len(counted.ranges) == 4
    assert max(length for _, _, length in counted.ranges) < manifest.shards[0].bytes / 8


@pytest.mark.parametrize("index", [-1, 45])
def test_there_is_no_sample_outside(counted: CountingStore, manifest: Manifest, index: int) -> None:
    with pytest.raises(IndexError, match=f"sample {index} of 45"):
        SampleReader(counted, manifest).get(index)


def test_a_pickled_copy_reads_the_same_and_carries_no_cache(counted: CountingStore, manifest: Manifest) -> None:
    reader = SampleReader(counted, manifest)
    before = len(pickle.dumps(reader))
    expected = [reader.get(i) for i in range(20)]
    data = pickle.dumps(reader)
    assert len(data) < before + 1000
    assert [pickle.loads(data).get(i) for i in range(20)] == expected


def gone(store: Store, key: str) -> None:
    store.delete(key)


def flipped(store: Store, key: str) -> None:
    data = bytearray(store.read(key))
    data[len(data) // 3] ^= 1
    store.write(key, data)


@pytest.mark.parametrize(("harm", "said"), [(gone, "it is gone"), (flipped, "it was altered after it was published")])
def test_a_shard_that_is_gone_or_altered_is_named(tmp_path: Path, store: Store, harm: Any, said: str) -> None:
    manifest = ingest(folder_config(write_pairs(tmp_path / "pets", numbered(20))), store)
    harm(store, manifest.shards[1].key)
    reader = SampleReader(store, manifest)
    assert reader.get(0).index == 0
    with pytest.raises(DataError, match=f"shards/000001.tar of dataset 'pets' version 1 cannot be used: {said}.*Restore"):
        reader.get(manifest.shards[1].base)
    with pytest.raises(DataError, match="shards/000001"):
        list(reader.shard(manifest.shards[1]))


def test_a_missing_index_is_made_anew_from_the_tar(counted: CountingStore, manifest: Manifest) -> None:
    expected = pairs(SampleReader(counted, manifest), range(45))
    for shard in manifest.shards:
        counted.delete(layout.shard_index(shard.key))
    assert pairs(SampleReader(counted, manifest), range(45)) == expected


def shift_offsets(lines: list[str]) -> list[str]:
    return [lines[0], *(" ".join(f"{int(x) + 512}" if i % 4 == 1 else x for i, x in enumerate(li.split())) for li in lines[1:])]


def smaller_sizes(lines: list[str]) -> list[str]:
    return [lines[0], *(" ".join(f"{int(x) - 1}" if i % 4 == 2 else x for i, x in enumerate(li.split())) for li in lines[1:])]


def swap_lines(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def drop_a_line(lines: list[str]) -> list[str]:
    return ["v1.2 15", *lines[1:-1]]


def without_captions(lines: list[str]) -> list[str]:
    return [lines[0], *(" ".join(line.split()[:8]) for line in lines[1:])]


@pytest.mark.parametrize("harm", [shift_offsets, smaller_sizes, swap_lines, drop_a_line, without_captions])
def test_a_wrong_index_never_gives_a_wrong_pair(counted: CountingStore, manifest: Manifest, harm: Any) -> None:
    key = layout.shard_index(manifest.shards[0].key)
    lines = counted.read(key).decode().rstrip("\n").split("\n")
    counted.write(key, ("\n".join(harm(lines)) + "\n").encode())
    with pytest.raises(DataError, match=r"shards/000000.tar.*cannot be used: its index"):
        SampleReader(counted, manifest).get(0)


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_used() -> None:
    cache = SizedCache(100, len)
    loads: list[str] = []

    def load(name: str) -> bytes:
        loads.append(name)
        return name.encode() * 40

    for name in "abacab":
        assert cache.get(name, lambda name=name: load(name)) == name.encode() * 40
        assert cache.size <= 100
    assert "".join(loads) == "abcb"


def test_of_several_that_ask_at_once_one_loads() -> None:
    cache = SizedCache(100, len)
    loads: list[int] = []
    go_on = threading.Event()

    def load() -> bytes:
        loads.append(1)
        go_on.wait(10)
        return b"a"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.get, "key", load) for _ in range(4)]
        time.sleep(0.2)  # one that comes later finds it held
        go_on.set()
        assert [each.result() for each in asked] == [b"a"] * 4
    assert len(loads) == 1


def test_what_could_not_be_loaded_is_loaded_again() -> None:
    cache = SizedCache(100, len)

    def fail() -> bytes:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("key", fail)
    assert cache.get("key", lambda: b"a") == b"a"


def test_the_json_says_what_the_sample_is(counted: CountingStore, manifest: Manifest) -> None:
    meta = SampleReader(counted, manifest).get(7).meta
    assert (meta["width"], meta["height"], meta["mode"], meta["exchanged"]) == (16, 16, "RGB", False)
    assert json.dumps(meta)
