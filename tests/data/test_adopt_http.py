"""Tars on a web server, adopted: read by ranges, and a server that cannot send any."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from adopt_helpers import RangeServer, adopted, captions_of, copied, noise, numbers, photos, serving
from source_helpers import write_tar

from drrho_clip.data.reader import SampleReader
from drrho_clip.data.sources import http as http_source
from drrho_clip.data.sources.http import download
from drrho_clip.errors import ConfigError, DataError, ObjectChanged, ObjectMissing, StorageError
from drrho_clip.storage import Store
from drrho_clip.storage import http as http_module
from drrho_clip.storage import ranged as ranged_module
from drrho_clip.storage.http import HttpStore
from drrho_clip.verification.dataset import verify_dataset


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server with the tars s/00000.tar and s/00001.tar, of eight samples and noise."""
    monkeypatch.setattr(http_module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(ranged_module.time, "sleep", lambda seconds: None)
    for number in range(2):
        between = [("rest.npy", b"\x93NUMPY" + noise("rest", 200, "PNG"))]
        members = photos(numbers(10 * number, 4)) + between + photos(numbers(10 * number + 4, 4))
        write_tar(tmp_path / f"web/s/{number:05d}.tar", members)
    with serving(tmp_path / "web") as server:
        yield server


PATTERN = "s/{00000..00001}.tar"


@pytest.mark.parametrize("etag", ['"one"', None])
def test_samples_come_by_ranges(server: RangeServer, folder_store: Store, etag: str | None) -> None:
    server.etag = etag
    manifest = adopted(folder_store, server.url(PATTERN))
    assert [shard.location for shard in manifest.shards] == [server.url("s/00000.tar"), server.url("s/00001.tar")]
    fetched = [name for name, wanted in server.asked if not wanted]
    assert fetched == ["00000.tar", "00001.tar"]  # each once, to index it
    reader = pickle.loads(pickle.dumps(SampleReader(folder_store, manifest)))
    server.asked.clear()
    assert reader.get(9).caption == "caption of 000000011"
    assert [name for name, _ in server.asked] == ["00001.tar", "00001.tar"]  # on both sides of the noise
    ranges = [wanted.removeprefix("bytes=").split("-") for _, wanted in server.asked]
    assert sum(int(last) - int(first) for first, last in ranges) < manifest.shards[1].bytes / 3
    copy = copied(folder_store, server.url(PATTERN))
    assert captions_of(folder_store, manifest) == captions_of(folder_store, copy)
    assert verify_dataset(folder_store, "web").problems == []
    server.asked.clear()
    assert adopted(folder_store, server.url(PATTERN)) == manifest
    assert {wanted for _, wanted in server.asked} == {"bytes=0-0"}


def test_a_server_without_ranges_is_refused_before_anything_is_fetched(server: RangeServer, folder_store: Store) -> None:
    server.ranges = False
    with pytest.raises(StorageError, match=r"does not send parts of a file: it answers 200 to Range.*00000.tar.*Copy"):
        adopted(folder_store, server.url(PATTERN))
    assert len(server.asked) == 1
    assert copied(folder_store, server.url(PATTERN)).total == 16


@pytest.mark.parametrize("address", ["http://user:secret@127.0.0.1:9/x.tar", "http://127.0.0.1:9/x.tar?key=secret"])
def test_addresses_that_hold_what_gives_access_are_refused(folder_store: Store, address: str) -> None:
    with pytest.raises(ConfigError, match="stand in the manifest") as caught:
        adopted(folder_store, address)
    assert "secret" not in str(caught.value)


def test_lost_connections_and_busy_servers_are_asked_again(server: RangeServer, folder_store: Store) -> None:
    manifest = adopted(folder_store, server.url(PATTERN))
    expected = captions_of(folder_store, manifest)
    server.cuts, server.busy = 3, 2
    assert captions_of(folder_store, manifest) == expected
    assert (server.cuts, server.busy) == (0, 0)


def test_another_version_on_the_server_is_named(server: RangeServer, folder_store: Store) -> None:
    manifest = adopted(folder_store, server.url(PATTERN))
    server.etag = '"two"'
    with pytest.raises(DataError, match=r"it was altered after it was published.*s/00000.tar"):
        SampleReader(folder_store, manifest).get(0)
    with pytest.raises(DataError, match=r"2 of 2 shards.*was altered"):
        manifest.check(folder_store)
    (server.root / "s/00001.tar").unlink()
    with pytest.raises(DataError, match="it is gone"):
        SampleReader(folder_store, manifest).get(8)


def test_a_tar_that_is_replaced_while_it_is_fetched(
    server: RangeServer, folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(url: str, path: Path) -> None:
        server.etag = '"two"' if url.endswith(".tar") else server.etag
        download(url, path)

    monkeypatch.setattr(http_source, "download", replaced)
    with pytest.raises(DataError, match=r"replaced while it is read.*s/00000.tar"):
        adopted(folder_store, server.url(PATTERN))


def test_a_web_server_as_a_store(server: RangeServer) -> None:
    store = HttpStore(server.url("s"))
    whole = (server.root / "s/00000.tar").read_bytes()
    assert store.read("00000.tar") == whole
    assert store.read_range("00000.tar", 5, 100, etag="one") == whole[5:105]
    assert store.read_range("00000.tar", 5, 0) == b""
    assert HttpStore(server.url("")).at("s").head("00000.tar").size == len(whole)
    assert store.head("none.tar") is None
    with pytest.raises(ObjectMissing):
        store.read("none.tar")
    with pytest.raises(ObjectChanged):
        store.read_range("00000.tar", 5, 100, etag="other")
    for refused in (
        lambda: store.write("x", b""),
        lambda: store.upload("x", "y"),
        lambda: store.list(),
        lambda: store.delete("x"),
    ):
        with pytest.raises(StorageError, match="can only be read"):
            refused()
    with pytest.raises(StorageError, match="does not answer"):
        HttpStore("http://127.0.0.1:9").head("x")
