"""Memory of ingest from a web server: whether a table twenty times as long takes more."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.download import ingest_table, web_server, write_table

FEW, MANY, SIDE, SHARD = 10_000, 200_000, 64, 1000


def download_memory() -> dict[str, Any]:
    """Peak memory of the process that fetches and of the largest of those that decode, for many rows over few."""
    with web_server(SIDE) as url:
        peaks = {rows: _peaks(url, rows) for rows in (FEW, MANY)}
    return {
        "ratio": sum(peaks[MANY].values()) / sum(peaks[FEW].values()),
        "goal": 1.2,
        "compared": f"peak memory of ingest of {MANY:,} URLs over that of {FEW:,}, pictures of {SIDE} pixels",
        "megabytes": peaks,
        "bytes_per_row": {name: 1e6 * (peaks[MANY][name] - peaks[FEW][name]) / (MANY - FEW) for name in peaks[FEW]},
    }


def _peaks(url: str, rows: int) -> dict[str, float]:
    """In MB, of a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_ingested, url, rows).result()


def _ingested(url: str, rows: int) -> dict[str, float]:
    os.setsid()  # what is started from here on is known by its session
    with tempfile.TemporaryDirectory(prefix="drrho-memory-") as folder, _watched() as peaks:
        if (found := ingest_table(write_table(Path(folder), url, rows), Path(folder), SIDE, SHARD)) != rows:
            raise RuntimeError(f"{rows - found} of {rows} rows are missing")
    fetching = peaks.pop(os.getpid())
    return {"fetching": fetching, "decoding": max(peaks.values())}


@contextmanager
def _watched() -> Iterator[dict[int, float]]:
    """Yield the peak memory in MB of each process of this session, by its number, looked at ten times a second (proc(5))."""
    peaks: dict[int, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for process in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
                with suppress(OSError, KeyError):  # it ends, or is a thread of the kernel
                    if os.getsid(process) == os.getsid(0):
                        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
                        peaks[process] = int(status["VmHWM"].split()[0]) / 1e3

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()
