"""Tars as others write them, a web server for them, and datasets made of them by adopting and by copying."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from source_helpers import Members

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.storage import Store


def noise(name: str, side: int = 24, image_format: str = "JPEG") -> bytes:
    """A picture of noise that belongs to a name."""
    pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def photo(key: str, **fields: Any) -> Members:
    """What img2dataset writes of one sample: picture, text and metadata."""
    return [(f"{key}.jpg", noise(key)), (f"{key}.json", {"key": key, **fields}), (f"{key}.txt", f"caption of {key}")]


def photos(keys: Iterable[str]) -> Members:
    return [member for key in keys for member in photo(key)]


def numbers(first: int, count: int) -> list[str]:
    return [f"{number:09d}" for number in range(first, first + count)]


def write_named(path: Path, members: Members, tar_format: int) -> Path:
    """Write a tar whose headers are of a given kind: tarfile.USTAR_FORMAT, GNU_FORMAT or PAX_FORMAT."""
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def config_of(path: Path | str, **settings: Any) -> IngestConfig:
    defaults = {"dataset": "web", "source": "shards", "path": str(path), "heldout_fraction": 0.0, "workers": 1}
    return IngestConfig.parse(defaults | settings)


def adopted(store: Store, path: Path | str, **settings: Any) -> Manifest:
    return ingest(config_of(path, adopt=True, **settings), store)


def copied(store: Store, path: Path | str, **settings: Any) -> Manifest:
    return ingest(config_of(path, **({"dataset": "copy"} | settings)), store)


def samples_of(store: Store, manifest: Manifest, cache_bytes: int = 2**20) -> list[Sample]:
    """All samples, one by one and in runs; both ways must give the same."""
    reader = SampleReader(store, manifest, cache_bytes)
    one_by_one = [reader.get(index) for index in range(manifest.total)]
    assert [sample for shard in manifest.shards for sample in reader.shard(shard)] == one_by_one
    assert [sample.index for sample in one_by_one] == list(range(manifest.total))
    return one_by_one


def captions_of(store: Store, manifest: Manifest) -> dict[str, str]:
    return {sample.meta["key"]: sample.caption for sample in samples_of(store, manifest)}


class RangeServer(http.server.ThreadingHTTPServer):
    """Serves a folder; `ranges` says whether it answers to Range, `cuts` how many answers it breaks off half-way."""

    root: Path
    ranges = True
    etag: str | None = '"one"'
    cuts = 0
    busy = 0

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.root = root
        self.asked: list[tuple[str, str]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class RangeHandler(http.server.BaseHTTPRequestHandler):
    server: RangeServer

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        path = server.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        server.asked.append((path.name, wanted))
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if server.ranges and wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last + 1 - first))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        body = data[first : last + 1]
        if server.cuts and len(body) > 1:
            server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def serving(root: Path) -> Iterator[RangeServer]:
    with RangeServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
