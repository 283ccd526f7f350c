"""What a killed ingest has put into shards is neither decoded nor written again, and the result is that of one never killed."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_helpers import TrappedStore, contents, folder_config, kill_this_process, refuse
from PIL import Image
from source_helpers import write_tar

from drrho_clip.data import ingest as ingest_module
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.prepare import Row, prepare_all
from drrho_clip.errors import DataError
from drrho_clip.storage import open_store

COUNT, ROWS, BAD = 40, 38, (3, 17, 31)
OF_A_SHARD = 4  # writes: index, keys, tar, and last what says so


def picture(number: int) -> bytes:
    """Every fifth one transparent; of BAD cut off."""
    channels = 4 if number % 5 == 0 else 3
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, channels), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()[: 60 if number in BAD else None]


def folder(path: Path) -> dict[str, Any]:
    for number in range(COUNT):
        file = path / f"kind{number % 3}" / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
        file.with_suffix(".txt").write_text(f"picture {number}")
    return {"source": "folder", "path": str(path), "class_field": "{parent}"}


def tars(path: Path) -> dict[str, Any]:
    path.mkdir()
    for first in range(0, COUNT, 15):
        numbers = range(first, min(first + 15, COUNT))
        members = [[(f"{n:02d}.png", picture(n)), (f"{n:02d}.txt", f"picture {n}".encode())] for n in numbers]
        write_tar(path / f"{first:02d}.tar", [member for pair in members for member in pair])
    return {"source": "shards", "path": str(path)}


def table(path: Path) -> dict[str, Any]:
    path.mkdir()
    columns = {"image": [picture(n) for n in range(COUNT)], "caption": [f"picture {n}" for n in range(COUNT)]}
    pq.write_table(pa.table(columns), path / "t.parquet", row_group_size=16)
    return {"source": "table", "path": str(path / "t.parquet")}


@pytest.fixture(params=[folder, tars, table], ids=lambda make: make.__name__)
def config(request: Any, tmp_path: Path) -> IngestConfig:
    settings = {"heldout_fraction": 0.3, "caption_noise": 0.4, "max_bad_fraction": 0.5, "samples": ROWS}
    return folder_config(tmp_path, **request.param(tmp_path / "data"), **settings)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what was decoded from now on."""
    found: list[str] = []

    def noted(rows: Iterable[Row], config: IngestConfig, **options: Any) -> Generator[Any, None, None]:
        for result in prepare_all(rows, config, **options):
            found.append(result.key)
            yield result

    monkeypatch.setattr(ingest_module, "prepare_all", noted)
    return found


def killed_at(write: int, config: IngestConfig, place: Path) -> None:
    target = (config, TrappedStore(place, write, kill_this_process))
    child = multiprocessing.get_context("fork").Process(target=ingest, args=target)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_killed_at_any_write_it_goes_on_behind_its_last_shard(tmp_path: Path, config: IngestConfig, decoded: list[str]) -> None:
    whole = TrappedStore(tmp_path / "whole", 0, refuse)
    manifest = ingest(config, whole)
    assert manifest.failed["truncated"].count == ROWS - manifest.total > 0
    assert manifest.converted["RGBA"] > 5
    everything = set(decoded)
    for write in range(1, -whole.left + 1):
        place = tmp_path / f"store{write}"
        killed_at(write, config, place)
        decoded.clear()
        ingest(config, open_store(place))
        assert contents(open_store(place)) == contents(whole)
        done = manifest.shards[: (write - 1) // OF_A_SHARD]
        assert len(decoded) == len(set(decoded)) == len(everything) - sum(shard.count for shard in done)


def test_a_picture_that_was_repaired_meanwhile_is_looked_at_again(tmp_path: Path, decoded: list[str]) -> None:
    config = folder_config(tmp_path, **folder(tmp_path / "data"), max_bad_fraction=0.0, heldout_fraction=0)
    with pytest.raises(DataError, match="3 of 40 rows gave no sample"):
        ingest(config, open_store(tmp_path / "store"))
    decoded.clear()
    for number in BAD:
        (tmp_path / "data" / f"kind{number % 3}" / f"{number:02d}.png").write_bytes(picture(number + COUNT))
    manifest = ingest(config, open_store(tmp_path / "store"))
    assert (manifest.total, manifest.failed) == (COUNT, {})
    assert len(decoded) == COUNT - 32  # four shards of 8 were there


def test_another_source_under_the_name_is_read_from_the_start(tmp_path: Path, decoded: list[str]) -> None:
    config = folder_config(tmp_path, **folder(tmp_path / "data"), max_bad_fraction=0.5)
    killed_at(2 * OF_A_SHARD + 1, config, tmp_path / "store")
    (tmp_path / "data" / "kind0" / "new.png").write_bytes(picture(50))
    (tmp_path / "data" / "kind0" / "new.txt").write_text("a new one")
    assert ingest(config, open_store(tmp_path / "store")).total == COUNT - len(BAD) + 1
    assert len(decoded) == COUNT + 1
    load_manifest(open_store(tmp_path / "store"), "pets").check(open_store(tmp_path / "store"))


def with_workers(path: Path, count: int, **environment: str) -> subprocess.Popen[bytes]:
    """Ingest as a user starts it, by two processes that shrink pictures."""
    (path / "data").mkdir()
    for number in range(count):
        file = path / "data" / f"{number}.png"
        file.write_bytes(picture(2 * number + 51))
        file.with_suffix(".txt").write_text(f"picture {number}")
    settings = {"dataset": "pets", "source": "folder", "path": path / "data", "workers": 2, "image_size": 8, "shard_samples": 8}
    command = [sys.executable, "-m", "drrho_pipelines.cli", "ingest", "--store", path / "store"]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return subprocess.Popen(command, start_new_session=True, env={**os.environ, **environment})


def test_the_temporary_folder_may_have_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    assert with_workers(tmp_path, 20, TMPDIR=str(folder)).wait() == 0
    assert load_manifest(open_store(tmp_path / "store"), "pets").total == 20


def test_its_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    process = with_workers(tmp_path, 300)
    while not list(tmp_path.glob("store/**/*.tar")):
        assert process.poll() is None
    assert len(session(process.pid)) >= 4  # itself, the server of forks and two workers
    process.kill()
    process.wait()
    ends = time.monotonic() + 20
    while session(process.pid) and time.monotonic() < ends:
        time.sleep(0.1)
    assert session(process.pid) == []


def session(leader: int) -> list[int]:
    """The processes of a session that are not dead."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader and ") Z " not in (entry / "stat").read_text():
                found.append(int(entry.name))
    return found
