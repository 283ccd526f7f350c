"""Folders of img2dataset: what it says beside each tar is compared, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopt_helpers import adopted, captions_of, copied, numbers, photos, serving
from source_helpers import write_tar

from drrho_clip.errors import DataError
from drrho_clip.storage import Store, open_store


def shard(folder: Path, number: int, good: int = 4, bad: int = 2, **stats: Any) -> None:
    """Write one tar with its .parquet and _stats.json, the way img2dataset does."""
    keys = numbers(10 * number, good + bad)
    write_tar(folder / f"{number:05d}.tar", photos(keys[:good]))
    rows = [{"key": key, "status": "success", "error_message": None, "url": "u"} for key in keys[:good]]
    rows += [{"key": key, "status": "failed_to_download", "error_message": "HTTP Error 404", "url": "u"} for key in keys[good:]]
    if bad:
        rows[-1] |= {"status": "failed_to_resize", "error_message": "image too small"}
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{number:05d}.parquet")
    counts = {"count": good + bad, "successes": good, "failed_to_download": bad, "failed_to_resize": 0, "status_dict": {}}
    (folder / f"{number:05d}_stats.json").write_text(json.dumps(counts | stats))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    for number in range(3):
        shard(tmp_path / "out", number)
    return tmp_path / "out"


@pytest.mark.parametrize("way", [adopted, copied])
def test_failed_rows_are_told_and_do_not_count_as_bad(folder: Path, folder_store: Store, way: Any) -> None:
    manifest = way(folder_store, folder, max_bad_fraction=0.0)
    assert manifest.total == 12
    failed = manifest.failed["not_downloaded"]
    assert failed.count == 6
    assert failed.examples[:2] == (
        "000000004: failed_to_download: HTTP Error 404",
        "000000005: failed_to_resize: image too small",
    )
    shard(folder, 3, bad=1)
    grown = way(folder_store, folder, max_bad_fraction=0.0)
    assert (grown.version, grown.total, grown.failed["not_downloaded"].count) == (2, 16, 7)


@pytest.mark.parametrize("missing", [["_stats.json"], ["_stats.json", ".parquet"]])
@pytest.mark.parametrize("place", ["a folder", "a store", "a web server"])
def test_a_tar_that_is_not_finished_is_refused(folder: Path, tmp_path: Path, place: str, missing: list[str]) -> None:
    for ending in missing:
        (folder / f"00001{ending}").unlink()
    store = open_store(tmp_path / ("out" if place == "a store" else "elsewhere"))
    with serving(folder) as server, pytest.raises(DataError, match=r"1 of 3 tars have no _stats.json.*00001.tar.*finish"):
        adopted(store, server.url("{00000..00002}.tar") if place == "a web server" else folder)


def test_the_only_tar_is_not_finished(tmp_path: Path, folder_store: Store) -> None:
    shard(tmp_path, 0)
    (tmp_path / "00000_stats.json").unlink()
    with pytest.raises(DataError, match=r"1 of 1 tars have no _stats.json"):
        adopted(folder_store, tmp_path / "00000.tar")


def test_another_count_than_the_stats_say(folder: Path, folder_store: Store) -> None:
    shard(folder, 2, successes=5)
    with pytest.raises(DataError, match=r"The tar has 4 samples, its _stats.json says 5 \(.*00002.tar\)"):
        adopted(folder_store, folder)


@pytest.mark.parametrize("stats", ["{}", "[", '{"successes": null}'])
def test_stats_that_cannot_be_read(folder: Path, folder_store: Store, stats: str) -> None:
    (folder / "00001_stats.json").write_text(stats)
    with pytest.raises(DataError, match=r"_stats.json beside the tar cannot be read.*00001.tar"):
        adopted(folder_store, folder)


def test_a_parquet_that_cannot_be_read(folder: Path, folder_store: Store) -> None:
    (folder / "00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"parquet beside the tar cannot be read.*00001.tar"):
        adopted(folder_store, folder)


def test_tars_without_a_parquet(folder: Path, folder_store: Store) -> None:
    for path in folder.glob("*.parquet"):
        path.unlink()
    manifest = adopted(folder_store, folder)
    assert manifest.failed == {}
    assert len(captions_of(folder_store, manifest)) == 12


def test_groups_tell_the_same(folder: Path, folder_store: Store, tmp_path: Path) -> None:
    alone = copied(folder_store, folder)
    assert copied(open_store(tmp_path / "shared"), folder, groups=2) == alone
    assert alone.failed["not_downloaded"].count == 6
