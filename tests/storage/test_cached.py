"""The local cache: what is on the disk is not asked for again, never wrong, never more than allowed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import pytest
import structlog

from drrho_clip.errors import ObjectChanged, StorageError
from drrho_clip.storage import blocks as blocks_module
from drrho_clip.storage.blocks import PAGE_BYTES, Blocks
from drrho_clip.storage.cached import CachedStore
from drrho_clip.storage.local import LocalStore

BLOCK_BYTES = 4 * PAGE_BYTES
DATA = random.Random(0).randbytes(3 * BLOCK_BYTES + 12_345)
LIMIT = 10 * BLOCK_BYTES


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drrho_clip.storage.cached.BLOCK_BYTES", BLOCK_BYTES)


class CountingStore(LocalStore):
    """A folder that writes a line to `requests` for each request, from any process."""

    requests = property(lambda self: self.root.with_name("requests"))

    def _note(self, what: str) -> None:
        with self.requests.open("a") as log:
            log.write(what + "\n")

    def head(self, key: str) -> Any:
        self._note(f"head {key}")
        return super().head(key)

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        self._note(f"read {key} {start} {length}")
        return super().read_range(key, start, length, etag=etag)

    def taken(self) -> list[str]:
        """What was asked for since the last call."""
        lines = self.requests.read_text().split("\n")[:-1] if self.requests.exists() else []
        self.requests.unlink(missing_ok=True)
        return lines


@pytest.fixture
def far(tmp_path: Path) -> CountingStore:
    store = CountingStore(tmp_path / "store")
    store.write("a", DATA)
    return store


def near(far: CountingStore, folder: Path, limit: int = LIMIT) -> CachedStore:
    return CachedStore(far, Blocks(folder, limit))


def etag_of(store: CountingStore, key: str = "a") -> str:
    info = LocalStore(store.root).head(key)
    assert info is not None
    return info.etag


RANGES = [(0, 10), (BLOCK_BYTES - 5, 10), (100, 2 * BLOCK_BYTES + 77), (len(DATA) - 3, 3), (0, len(DATA)), (PAGE_BYTES, 1)]


def test_what_was_read_is_not_asked_for_again(far: CountingStore, tmp_path: Path):
    etag, store = etag_of(far), near(far, tmp_path / "cache")
    for start, length in RANGES:
        assert store.read_range("a", start, length, etag=etag) == DATA[start : start + length]
    asked = far.taken()
    assert asked[0] == "head a"
    assert sorted(asked[1:]) == sorted(
        f"read a {start} {min(BLOCK_BYTES, len(DATA) - start)}" for start in range(0, len(DATA), BLOCK_BYTES)
    )
    for start, length in RANGES:
        assert store.read_range("a", start, length, etag=etag) == DATA[start : start + length]
    assert far.taken() == []
    assert near(far, tmp_path / "cache").read_range("a", 5, 10, etag=etag) == DATA[5:15]
    assert far.taken() == ["head a"], "another process: it has to learn the size"


def test_another_version_or_object_is_never_taken_for_this_one(far: CountingStore, tmp_path: Path):
    store, first = near(far, tmp_path / "cache"), etag_of(far)
    far.write("b", DATA[::-1])
    assert store.read_range("a", 0, 99, etag=first) == DATA[:99]
    assert store.at("x").uri_of("b") == far.at("x").uri_of("b")
    assert store.read_range("b", 0, 99, etag=etag_of(far, "b")) == DATA[::-1][:99]
    far.write("a", DATA[7:])
    assert store.read_range("a", 0, 99, etag=etag_of(far)) == DATA[7:106]
    with pytest.raises(ObjectChanged):
        near(far, tmp_path / "new").read_range("a", 0, 99, etag=first)
    assert store.read_range("a", 0, 9) == DATA[7:16], "without an ETag nothing is taken from the cache"
    with pytest.raises(StorageError, match="ends before"):
        store.read_range("a", len(DATA) - 5, 10, etag=etag_of(far))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.is_file()]


@pytest.mark.parametrize("harm", ["flip", "head", "cut", "longer", "empty"])
def test_a_damaged_block_is_fetched_again(far: CountingStore, tmp_path: Path, harm: str):
    etag, store = etag_of(far), near(far, tmp_path / "cache")
    store.read_range("a", 0, len(DATA), etag=etag)
    for path in files(tmp_path / "cache"):
        data = bytearray(path.read_bytes())
        if harm in ("flip", "head"):
            data[len(data) // 2 if harm == "flip" else 12] ^= 1
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}.get(harm, data))
    far.taken()
    with structlog.testing.capture_logs() as logs:
        assert store.read_range("a", 0, len(DATA), etag=etag) == DATA
    assert [line["event"] for line in logs] == ["cache_block_damaged"] * 4
    assert len(far.taken()) == 4
    assert store.read_range("a", 0, len(DATA), etag=etag) == DATA
    assert far.taken() == []


def test_it_keeps_to_its_limit_and_drops_what_was_not_used(far: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks_module, "TOUCH_SECONDS", 0)
    folder, limit = tmp_path / "cache", 3 * (BLOCK_BYTES + 1000)
    store = near(far, folder, limit)
    for number in range(6):
        far.write(f"{number}", DATA[number : number + BLOCK_BYTES])
        assert store.read_range(f"{number}", 0, 10, etag=etag_of(far, f"{number}")) == DATA[number : number + 10]
        assert store.read_range("0", 0, 10, etag=etag_of(far, "0")) == DATA[:10]
        assert sum(path.stat().st_size for path in files(folder)) <= limit
    far.taken()
    for number in (0, 5, 1):
        store.read_range(f"{number}", 0, 10, etag=etag_of(far, f"{number}"))
    assert far.taken() == [f"read 1 0 {BLOCK_BYTES}"], "0 was used all the time, and 5 is the newest"


def test_what_killed_processes_leave_is_counted_and_removed(far: CountingStore, tmp_path: Path):
    folder = tmp_path / "cache"
    left = folder / "ab" / "abcd.77.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 1000)
    os.utime(left, (0, 0))
    (folder / "size").write_text("999999999999")  # counted, and never written
    store = near(far, folder)
    assert store.read_range("a", 0, len(DATA), etag=etag_of(far)) == DATA
    assert not left.exists()
    assert int((folder / "size").read_text()) == sum(path.stat().st_size for path in files(folder))


@pytest.mark.parametrize("trap", ["full", "read only", "no folder"])
def test_a_disk_that_fails_makes_it_slower_and_is_told_once(
    far: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
):
    folder = tmp_path / "cache"
    if trap == "no folder":
        folder.write_text("a file")
    elif trap == "full":

        def refuse(path: Path, data: bytes) -> int:
            with path.open("wb") as file:
                file.write(data[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", refuse)
    else:

        def denied(*_: Any) -> int:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Blocks, "_open", denied)
    etag, store = etag_of(far), near(far, folder)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            assert store.read_range("a", 0, len(DATA), etag=etag) == DATA
    assert [line["event"] for line in logs] == ["cache_given_up"]
    assert folder.is_file() or files(folder) == []
    assert len(far.taken()) == 1 + 2 * 4


def read_all(root: Path, folder: Path, seed: int) -> None:
    store = CountingStore(root)
    generator, etag, cached = random.Random(seed), etag_of(store), near(store, folder)
    assert cached.read_range("a", len(DATA) - 1, 1, etag=etag) == DATA[-1:]
    for _ in range(60):
        start = generator.randrange(len(DATA) - 1)
        length = generator.randrange(1, min(100_000, len(DATA) - start + 1))
        assert cached.read_range("a", start, length, etag=etag) == DATA[start : start + length]


def test_many_processes_fetch_each_block_once(far: CountingStore, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=read_all, args=(far.root, tmp_path / "cache", seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len([line for line in far.taken() if line.startswith("read")]) == 4
    assert int((tmp_path / "cache/size").read_text()) == sum(path.stat().st_size for path in files(tmp_path / "cache"))
