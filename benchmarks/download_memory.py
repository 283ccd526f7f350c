"""Memory of ingest from a web server: whether a table twenty times as long takes more."""

from __future__ import annotations

import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
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
    with tempfile.TemporaryDirectory(prefix="drrho-memory-") as folder:
        if (found := ingest_table(write_table(Path(folder), url, rows), Path(folder), SIDE, SHARD)) != rows:
            raise RuntimeError(f"{rows - found} of {rows} rows are missing")
    who = {"fetching": resource.RUSAGE_SELF, "decoding": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(usage).ru_maxrss / 1e3 for name, usage in who.items()}
