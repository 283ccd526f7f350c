"""Ingest of a table of URLs from a local web server, against a plain downloader of the same table into the same kind of shards.

With `DRRHO_IMG2DATASET` set to the Python of an environment that has img2dataset, that is measured too, at the same number of
processes and the same size. The server runs in a process of its own and answers from memory. What counts is the difference of a
large and a small table, so that nobody's start does; the processor time says more than the clock where the machine is shared.
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.storage import open_store

ROWS, FEW, IMAGES, SIDE, SMALL, SHARD = 4500, 500, 100, 384, 224, 250
PROCESSES, THREADS, REPEATS = 2, 32, 3
IMG2DATASET = "DRRHO_IMG2DATASET"

Way = Callable[[Path, Path], int]  # takes a table and a folder, returns the rows that came


def download_rate() -> dict[str, Any]:
    """Median rows per second of each, in turn, by the clock and by the processor time of all its processes."""
    ways: dict[str, Way] = {"ours": _ours, "plain": _plain}
    if os.environ.get(IMG2DATASET):
        ways["img2dataset"] = _img2dataset
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with web_server(SIDE) as url:
        _seconds(_ours, url, SHARD)  # what this process imports on the way is nobody's work
        for _ in range(REPEATS):
            for name, way in ways.items():
                few, all_rows = (_seconds(way, url, rows) for rows in (FEW, ROWS))
                found[name].append((all_rows[0] - few[0], all_rows[1] - few[1]))
    clock, processor = (
        {name: (ROWS - FEW) / statistics.median(each[kind] for each in values) for name, values in found.items()}
        for kind in (0, 1)
    )
    other = "img2dataset" if "img2dataset" in ways else "plain"
    return {
        "ratio": clock["ours"] / clock[other],
        "goal": 1.2,
        "compared": f"rows/s over {other}: URLs of {SIDE} pixels to {SMALL}, {PROCESSES} processes",
        "rows_per_second": clock,
        "rows_per_processor_second": processor,
    }


def _seconds(way: Way, url: str, rows: int) -> tuple[float, float]:
    """Seconds by the clock, and of processor time on this machine, that of the server among it."""
    with tempfile.TemporaryDirectory(prefix="drrho-download-") as folder:
        table = write_table(Path(folder), url, rows)
        started, used = time.perf_counter(), _processor_seconds()
        if (found := way(table, Path(folder))) != rows:
            raise RuntimeError(f"{rows - found} of {rows} rows are missing")
        return time.perf_counter() - started, _processor_seconds() - used


def _processor_seconds() -> float:
    """Of the whole machine since its start (proc(5), /proc/stat), since a way's processes need not be children of this one."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def write_table(folder: Path, url: str, rows: int) -> Path:
    """Write a table of `rows` URLs of that server into a folder, each with a caption, and return its path."""
    table = folder / "table.tsv"
    table.write_text("url\tcaption\n" + "".join(f"{url}/{number}.jpg\tpicture {number}\n" for number in range(rows)))
    return table


def ingest_table(table: Path, folder: Path, size: int, shard: int) -> int:
    """Fetch a table into a store in `folder`, pictures of `size` pixels, and return how many samples came."""
    config = IngestConfig(
        dataset="web", source="table", path=str(table), image_size=size, shard_samples=shard, workers=PROCESSES,
        heldout_fraction=0, allow_private=True, download_connections=PROCESSES * THREADS,
        download_host_connections=PROCESSES * THREADS,
    )  # fmt: skip
    return ingest(config, open_store(folder / "store")).total


def _ours(table: Path, folder: Path) -> int:
    return ingest_table(table, folder, SMALL, SHARD)


def _plain(table: Path, folder: Path) -> int:
    """Processes with threads, each process a part of the table and a tar of its own."""
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    parts = [(rows[start : start + SHARD], folder / f"{start:06d}.tar") for start in range(0, len(rows), SHARD)]
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(_plain_part, *zip(*parts, strict=True)))


def _plain_part(rows: list[list[str]], path: Path) -> int:
    def fetch(row: list[str]) -> tuple[list[str], bytes]:
        with urllib.request.urlopen(row[0], timeout=30) as response:
            return row, response.read()

    with ThreadPoolExecutor(THREADS) as pool, tarfile.open(path, "w") as tar:
        for number, (row, data) in enumerate(pool.map(fetch, rows)):
            image = Image.open(io.BytesIO(data)).convert("RGB").resize((SMALL, SMALL), Image.Resampling.BICUBIC)
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=95)
            for ending, content in (("jpg", stream.getvalue()), ("txt", row[1].encode())):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return len(rows)


def _img2dataset(table: Path, folder: Path) -> int:
    settings = {
        "url_list": str(table), "input_format": "tsv", "url_col": "url", "caption_col": "caption",
        "output_folder": str(folder / "out"), "output_format": "webdataset", "processes_count": PROCESSES,
        "thread_count": THREADS, "image_size": SMALL, "resize_mode": "keep_ratio", "encode_quality": 95,
        "number_sample_per_shard": SHARD, "disallowed_header_directives": [],
    }  # fmt: skip
    code = f"import json; from img2dataset import download; download(**json.loads({json.dumps(settings)!r}))"
    quiet = {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [os.environ[IMG2DATASET], "-c", f"if __name__ == '__main__': {code}"]
    subprocess.run(command, env={**os.environ, **quiet}, check=True, capture_output=True)
    return sum(json.loads(stats.read_text())["successes"] for stats in (folder / "out").glob("*_stats.json"))


@contextmanager
def web_server(side: int) -> Iterator[str]:
    """A web server in a process of its own that answers every GET with one of some pictures of `side` pixels; yields its URL."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, side), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        server.terminate()


def _serve(pipe: Connection, side: int) -> None:
    """Answer over connections that stay open."""
    generator = np.random.default_rng(0)
    answers = []
    for _ in range(IMAGES):
        stream = io.BytesIO()
        clouds = Image.fromarray(generator.integers(0, 256, (side // 6, side // 6, 3), dtype=np.uint8))
        clouds.resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        body = stream.getvalue()
        answers.append(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                number = int(head.split(b" ", 2)[1].strip(b"/").partition(b".")[0])
                writer.write(answers[number % IMAGES])
                await writer.drain()
                if b"connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())
