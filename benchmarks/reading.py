"""Reading shards from SeaweedFS on this machine: all samples in order, against a bare client and against webdataset.

Beside the ratio by the clock stands that of processor time, the server included, which other programs change little.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from benchmarks.pictures import publish_pictures
from drrho_clip.data.ahead import RUN_BYTES, RUNS_AHEAD
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.storage.s3 import S3Store
from drrho_pipelines.seaweed import SeaweedServer

SAMPLES, SIDE, REPEATS = 4000, 512, 9

Way = Callable[[S3Store, Manifest], int]  # returns the bytes that came


def read_rate() -> dict[str, Any]:
    """Samples, cut out and checked, over a bare HTTP client that fetches the same bytes in as many threads."""
    return _compare({"ours": _ours, "plain": _plain}, 0.8, "MB/s of samples over parallel ranged GETs of the same bytes")


def webdataset_rate() -> dict[str, Any]:
    """The same over webdataset's usual way."""
    return _compare({"ours": _ours, "webdataset": _webdataset}, 2.0, "MB/s of samples over webdataset with pipe:curl")


def _compare(ways: dict[str, Way], goal: float, compared: str) -> dict[str, Any]:
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    with _served() as (store, manifest, server):
        size = sum(shard.bytes for shard in manifest.shards)
        for _ in range(REPEATS + 1):
            for name, way in ways.items():
                started, used = time.perf_counter(), _processor_time(server)
                if (came := way(store, manifest)) < 0.9 * size:
                    raise RuntimeError(f"{name}: {came:,} of {size:,} bytes")
                clock[name].append(time.perf_counter() - started)
                processor[name].append(_processor_time(server) - used)
    seconds, work = ({name: statistics.median(values[1:]) for name, values in found.items()} for found in (clock, processor))
    other = next(name for name in ways if name != "ours")  # of each the first round is for the server's cache
    return {
        "ratio": seconds[other] / seconds["ours"],
        "goal": goal,
        "compared": f"{compared}; {size / 1e6:.0f} MB in {len(manifest.shards)} shards, {size / SAMPLES / 1e3:.0f} kB a sample",
        "processor_ratio": work[other] / work["ours"],
        "megabytes_per_second": {name: size / 1e6 / value for name, value in seconds.items()},
        "processor_seconds": work,
    }


def _processor_time(server: SeaweedServer) -> float:
    """Seconds of this process, of what it has started and waited for, and of the server: what a busy machine leaves alone."""
    fields = Path(f"/proc/{server.process_id}/stat").read_text().rpartition(")")[2].split()
    return sum(os.times()[:4]) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _served() -> Iterator[tuple[S3Store, Manifest, SeaweedServer]]:
    with tempfile.TemporaryDirectory(prefix="drrho-reading-") as folder, SeaweedServer(Path(folder) / "weed") as server:
        os.environ.update(server.environment)
        store = S3Store(server.bucket)
        yield store, publish_pictures(store, Path(folder), samples=SAMPLES, side=SIDE), server


def _ours(store: S3Store, manifest: Manifest) -> int:
    reader = SampleReader(store, manifest)
    return sum(len(sample.image) for _, sample in reader.in_order(manifest.shards))


def _plain(store: S3Store, manifest: Manifest) -> int:
    pool = urllib3.PoolManager(maxsize=RUNS_AHEAD)

    def get(url: str, start: int, stop: int) -> int:
        return len(pool.request("GET", url, headers={"Range": f"bytes={start}-{stop - 1}"}).data)

    parts = [
        (_url(store, shard.key), start, min(start + RUN_BYTES, shard.bytes))
        for shard in manifest.shards
        for start in range(0, shard.bytes, RUN_BYTES)
    ]
    with ThreadPoolExecutor(RUNS_AHEAD) as threads:
        return sum(threads.map(get, *zip(*parts, strict=True)))


def _webdataset(store: S3Store, manifest: Manifest) -> int:
    import webdataset

    urls = [f"pipe:curl -s '{_url(store, shard.key)}'" for shard in manifest.shards]
    return sum(len(sample["jpg"]) for sample in webdataset.WebDataset(urls, shardshuffle=False))


def _url(store: S3Store, key: str) -> str:
    parameters = {"Bucket": store.bucket, "Key": key}
    url: str = store.connection.client.generate_presigned_url("get_object", Params=parameters)
    return url
