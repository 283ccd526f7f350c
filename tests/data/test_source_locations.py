"""Where tars lie: local patterns, object stores and web servers, with the ways in which these fail."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from source_helpers import captions, check_pairs, collect, open_kind, shard, write_files

from drrho_clip.data.sources import http as http_module
from drrho_clip.data.sources.locate import expand_braces
from drrho_clip.errors import ConfigError, DataError, StorageError
from drrho_clip.storage import Store


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{000..003}.tar", ["000.tar", "001.tar", "002.tar", "003.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("{word}.tar", ["{word}.tar"]),
        ("x{,y}", ["x", "xy"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """s/000.tar, s/001.tar and s/deep/002.tar of four samples each."""
    root = tmp_path_factory.mktemp("shards")
    for number, name in enumerate(("000.tar", "001.tar", "deep/002.tar")):
        shard(root / "s" / name, range(4 * number, 4 * number + 4))
    write_files(root, {"s/000.idx": "x", "other/readme.md": "x"})
    return root


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("s", 12),
        ("s/000.tar", 4),
        ("s/{000..001}.tar", 8),
        ("s/*.tar", 8),
        ("s/00[01].tar", 8),
        ("s/**/*.tar", 12),
        ("{s/000,s/deep/002}.tar", 8),
    ],
)
def test_local_patterns(three_shards: Path, pattern: str, count: int) -> None:
    assert len(captions(open_kind("shards", three_shards / pattern))) == count


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("none", ["1 of 1 named tars are not there"]),
        ("s/{000..009}.tar", ["8 of 10 named tars are not there", "002.tar"]),
        ("s/x*.tar", ["No .tar is there"]),
        ("other", ["No .tar is there, only 1 .md", "'folder'"]),
    ],
)
def test_tars_that_are_not_there(three_shards: Path, pattern: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        open_kind("shards", three_shards / pattern)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.fixture
def uploaded(three_shards: Path, s3_store: Store) -> Store:
    for path in three_shards.rglob("*"):
        if path.is_file():
            s3_store.upload(path.relative_to(three_shards).as_posix(), path)
    return s3_store


@pytest.mark.parametrize("through", ["the store", "a store of its own"])
@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        *(("s", range(12)), ("s/", range(12)), ("", range(12)), ("s/deep", range(8, 12))),
        *(("s/000.tar", range(4)), ("s/{000..001}.tar", range(8)), ("s/00[01].tar", range(8)), ("s/*", range(12))),
    ],
)
def test_tars_in_an_object_store(uploaded: Store, through: str, pattern: str, keys: range) -> None:
    source = open_kind("shards", f"{uploaded.uri}/{pattern}", uploaded if through == "the store" else None)
    check_pairs(source, {f"{key:06d}": 5 * key for key in keys})


@pytest.mark.parametrize("pattern", ["none", "s/{000..009}.tar", "s/x*.tar", "s/000"])
def test_tars_missing_in_an_object_store(uploaded: Store, pattern: str) -> None:
    with pytest.raises(DataError, match="not there"):
        open_kind("shards", f"{uploaded.uri}/{pattern}")


def test_a_bucket_that_is_not_there(s3_environment: object) -> None:
    with pytest.raises(StorageError, match="no-such-bucket"):
        open_kind("shards", "s3://no-such-bucket/x")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, in the way that `behaviour` says, and keeps what was asked for."""

    root: Path
    behaviour: str = "plain"
    asked: ClassVar[list[str]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """Understands Range; can cut connections once, ignore ranges, refuse, be busy once, or announce too much."""

    server: Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0].endswith((".json", ".parquet")):  # asked for beside each tar
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "")
        first = not self.server.asked
        self.server.asked.append(wanted)
        behaviour = self.server.behaviour
        path = self.server.root / self.path.partition("?")[0].lstrip("/")
        if behaviour == "busy once" and first:
            self.send_error(503)
            return
        if behaviour == "password" and self.headers.get("Authorization") != "Basic dXNlcjpwQHNz":  # user:p@ss
            self.send_error(401)
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and "no ranges" not in behaviour else 0
        if "changes" in behaviour and not first:
            data = data[: len(data) // 4] if "no ranges" in behaviour else data + bytes(512)
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start + (1000 if "announces too much" in behaviour else 0)))
        self.end_headers()
        end = len(data) // 2 if first and ("cut" in behaviour or "changes" in behaviour) else len(data)
        self.wfile.write(data[start:end])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(three_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http_module.time, "sleep", lambda seconds: None)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.root = three_shards
        server.asked.clear()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server: Server, path: str, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [("plain", 2), ("cut once", 3), ("cut once, no ranges", 3), ("busy once", 3)],
)
def test_tars_over_http(server: Server, behaviour: str, requests: int) -> None:
    server.behaviour = behaviour
    check_pairs(open_kind("shards", address(server, "s/{000..001}.tar")), {f"{key:06d}": 5 * key for key in range(8)})
    assert len(server.asked) == requests
    resumed = [asked for asked in server.asked if asked]
    size = (server.root / "s/000.tar").stat().st_size
    assert resumed == ([f"bytes={size // 2}-"] if "cut" in behaviour else [])


def test_a_download_that_starts_again_keeps_nothing_of_the_first(server: Server, tmp_path: Path) -> None:
    server.behaviour = "changes, no ranges"
    http_module.download(address(server, "s/000.tar"), tmp_path / "x")
    whole = (server.root / "s/000.tar").read_bytes()
    assert (tmp_path / "x").read_bytes() == whole[: len(whole) // 4]


def test_user_and_password_in_the_address(server: Server) -> None:
    server.behaviour = "password"
    assert len(captions(open_kind("shards", address(server, "s/000.tar", "user:p%40ss@")))) == 4


@pytest.mark.parametrize(
    ("behaviour", "path", "error", "words"),
    [
        ("plain", "s/none.tar?key=secret", DataError, ["404", "s/none.tar", "Check `path`"]),
        ("password", "s/000.tar", DataError, ["401"]),
        ("announces too much, no ranges", "s/000.tar", StorageError, ["download fails at byte"]),
        ("changes", "s/000.tar", StorageError, ["changed"]),
    ],
)
def test_what_the_server_does_wrong_is_said(
    server: Server, behaviour: str, path: str, error: type[Exception], words: list[str]
) -> None:
    server.behaviour = behaviour
    source = open_kind("shards", address(server, path, "user:secret@"))
    with pytest.raises(error) as caught:
        collect(source)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "secret" not in str(caught.value)


def test_no_server_at_the_address(server: Server) -> None:
    with pytest.raises(StorageError, match="download fails at byte 0"):
        collect(open_kind("shards", "http://127.0.0.1:9/x.tar"))


def test_wildcards_over_http_are_refused() -> None:
    with pytest.raises(ConfigError, match="by braces"):
        open_kind("shards", "https://127.0.0.1/*.tar")


def test_fetched_tars_leave_nothing_behind(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = open_kind("shards", address(server, "s/{000..001}.tar")).samples(())
    next(rows)
    assert len(list(tmp_path.rglob("*.tar"))) == 1
    rows.close()
    assert list(tmp_path.iterdir()) == []
