"""Lists of uids in every format, for tars that are adopted and tars that are copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopt_helpers import adopted, captions_of, config_of, copied, numbers, photo, photos, serving
from group_helpers import alone, hashes, shared
from source_helpers import write_tar
from structlog.testing import capture_logs

from drrho_clip.data.ingest import ingest
from drrho_clip.data.sources.uids import Uids
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.storage import Store, open_store

PAIR = np.dtype("u8,u8")


def uid(number: int) -> str:
    """Of all sizes: high halves that are equal, low halves with the first bit set."""
    return f"{number // 3:016x}{(number * 0x9E3779B97F4A7C15) % 2**64:016x}"


def pairs(uids: list[str]) -> np.ndarray:
    return np.array([(int(one[:16], 16), int(one[16:], 16)) for one in uids], PAIR)


def as_npy(path: Path, uids: list[str]) -> Path:
    """As DataComp's resharder wants it: sorted."""
    with (path := path.with_suffix(".npy")).open("wb") as stream:
        np.save(stream, np.sort(pairs(uids)))
    return path


def as_shuffled_npy(path: Path, uids: list[str]) -> Path:
    np.save(path := path.with_suffix(".npy"), pairs([*uids[::-1], uids[0]]))
    return path


def as_parquet(path: Path, uids: list[str]) -> Path:
    pq.write_table(pa.table({"uid": uids, "clip_score": [0.3] * len(uids)}), path := path.with_suffix(".parquet"))
    return path


def as_text(path: Path, uids: list[str]) -> Path:
    (path := path.with_suffix(".txt")).write_text("\n".join([uids[0].upper(), *uids]) + "\n\n")
    return path


FORMATS = [as_npy, as_shuffled_npy, as_parquet, as_text]
Write = Callable[[Path, list[str]], Path]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """DataComp's layout: two tars of six samples in shards/, whose .json has a uid, and metadata."""
    for first in (0, 10):
        members = [m for n in range(first, first + 6) for m in photo(f"{n:09d}", uid=uid(n))]
        write_tar(tmp_path / f"pool/shards/{first:08d}.tar", members)
    (tmp_path / "pool/metadata").mkdir()
    as_parquet(tmp_path / "pool/metadata/a", [uid(n) for n in range(20)])
    return tmp_path / "pool"


KEPT = [1, 4, 12, 13]


@pytest.mark.parametrize("way", [adopted, copied])
@pytest.mark.parametrize("write", FORMATS)
def test_only_listed_samples_are_kept(tars: Path, tmp_path: Path, folder_store: Store, write: Write, way: Any) -> None:
    path = write(tmp_path / "kept", [uid(n) for n in (*KEPT, 900, 901)])
    with capture_logs() as logs:
        manifest = way(folder_store, tars, uids=str(path))
    assert list(captions_of(folder_store, manifest)) == [f"{n:09d}" for n in KEPT]
    assert manifest.uids is not None
    assert (manifest.uids.listed, manifest.uids.found) == (6, 4)
    assert [log["missing"] for log in logs if log["event"] == "uids_missing"] == [2]
    assert manifest.failed == {}


def test_a_sorted_list_is_not_read_into_the_memory(tmp_path: Path) -> None:
    found = Uids(str(as_npy(tmp_path / "x", [uid(n) for n in range(50)])))
    assert isinstance(found._pairs, np.memmap)
    assert [n for n in range(60) if found.meet({"uid": uid(n)}, "x") is not None] == list(range(50))
    assert not isinstance(Uids(str(as_shuffled_npy(tmp_path / "y", [uid(n) for n in range(50)])))._pairs, np.memmap)


def test_several_lists_are_one(tars: Path, tmp_path: Path, folder_store: Store) -> None:
    as_npy(tmp_path / "kept-0", [uid(1), uid(4)])
    as_npy(tmp_path / "kept-1", [uid(4), uid(12)])
    manifest = adopted(folder_store, tars, uids=f"{tmp_path}/kept-{{0,1}}.npy")
    assert list(captions_of(folder_store, manifest)) == [f"{n:09d}" for n in (1, 4, 12)]
    assert (manifest.uids.listed, manifest.uids.found) == (3, 3)


def test_a_list_on_a_web_server(tars: Path, tmp_path: Path, folder_store: Store) -> None:
    as_npy(tmp_path / "kept", [uid(1)])
    with serving(tmp_path) as server:
        url = server.url("kept.npy")
        manifest = adopted(folder_store, tars, uids=url.replace("http://", "http://user:secret@"))
    assert (manifest.total, manifest.source["uids"]) == (1, url)


@pytest.mark.parametrize("way", [adopted, copied])
def test_a_list_that_grows_adds_what_it_lacked(tars: Path, tmp_path: Path, folder_store: Store, way: Any) -> None:
    first = way(folder_store, tars, uids=str(as_npy(tmp_path / "kept", [uid(n) for n in KEPT])))
    path = as_npy(tmp_path / "kept", [uid(n) for n in (*KEPT, 0, 15, 900)])
    grown = way(folder_store, tars, uids=str(path))
    assert list(captions_of(folder_store, grown)) == [f"{n:09d}" for n in (*KEPT, 0, 15)]
    assert grown.shards[: len(first.shards)] == first.shards
    assert (grown.uids.listed, grown.uids.found) == (7, 6)
    assert way(folder_store, tars, uids=str(path)) == grown
    write_tar(tars / "shards/00000099.tar", photo("000000900", uid=uid(900)))
    more = way(folder_store, tars, uids=str(path))
    assert (more.version, more.total, more.uids.found) == (3, 7, 7)


def test_samples_without_a_uid_are_told(tmp_path: Path, folder_store: Store) -> None:
    members = [*photo("a", uid=uid(1)), *photo("b"), *photo("c", uid="12"), *photo("d", uid=None)]
    members += [("e.txt", "no json"), ("e.jpg", members[0][1])]
    path = write_tar(tmp_path / "x.tar", members)
    manifest = adopted(folder_store, path, uids=str(as_npy(tmp_path / "kept", [uid(1)])), max_bad_fraction=0.9)
    assert list(captions_of(folder_store, manifest)) == ["a"]
    assert manifest.failed["uid"].count == 4
    assert any("c.json: uid is '12', not 32 hex digits" in example for example in manifest.failed["uid"].examples)


def test_a_list_of_another_pool(tars: Path, tmp_path: Path, folder_store: Store) -> None:
    with pytest.raises(DataError, match=r"No sample has a uid of the list.*another pool"):
        adopted(folder_store, tars, uids=str(as_npy(tmp_path / "kept", [uid(500)])))


def test_tars_without_uids(tmp_path: Path, folder_store: Store) -> None:
    write_tar(tmp_path / "x.tar", photos(numbers(0, 3)))
    with pytest.raises(DataError, match=r"No usable sample in the first 1 tars.*Dropped: 3 uid"):
        adopted(folder_store, tmp_path / "x.tar", uids=str(as_npy(tmp_path / "kept", [uid(1)])), max_bad_fraction=1.0)


def plain_npy(path: Path) -> None:
    np.save(path.open("wb"), np.arange(4))


def floats_npy(path: Path) -> None:
    np.save(path.open("wb"), np.zeros(3, "f8,f8"))


def table_npy(path: Path) -> None:
    np.save(path.open("wb"), np.zeros((3, 2), "u8,u8"))


def objects_npy(path: Path) -> None:
    np.save(path.open("wb"), np.array([{}], dtype=object), allow_pickle=True)


def other_parquet(path: Path) -> None:
    pq.write_table(pa.table({"url": ["x"]}), path)


def numbers_parquet(path: Path) -> None:
    pq.write_table(pa.table({"uid": [1, 2]}), path)


def cut_parquet(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(50))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (plain_npy, "holds int64 of shape"),
        (floats_npy, "f8"),
        (table_npy, r"of shape \(3, 2\)"),
        (objects_npy, "no list of uids"),
        (other_parquet, "its columns are url"),
        (numbers_parquet, "row 1 is '1'"),
        (cut_parquet, "no list of uids"),
        (lambda path: path.write_text(uid(1) + "\nnonsense\n"), "uid 2 is 'nonsense'"),
        (lambda path: path.write_text(uid(1)[:-1] + "g\n"), "uid 1 is"),
        (lambda path: path.write_bytes(b"\x80\x81\n"), "uid 1 is"),
        (lambda path: path.write_text("\n"), "list of uids is empty"),
        (lambda path: None, "No list of uids: .*not there.*Check `uids`"),
        (lambda path: path.mkdir(), "No list of uids: No .tar is there, only nothing"),
    ],
)
def test_what_is_no_list_of_uids_is_named(
    tars: Path, tmp_path: Path, folder_store: Store, write: Callable[[Path], None], said: str
) -> None:
    write(tmp_path / "list")
    with pytest.raises(DataError, match=said) as caught:
        adopted(folder_store, tars, uids=str(tmp_path / "list"))
    assert "list" in str(caught.value)


def test_a_source_without_tars_has_no_uids(tars: Path, folder_store: Store) -> None:
    with pytest.raises(ConfigError, match="uids is for the source 'shards'"):
        ingest(config_of(tars, uids="x.npy", source="folder"), folder_store)


@pytest.mark.parametrize("adopt", [True, False])
def test_groups_count_together_which_were_met(tars: Path, tmp_path: Path, adopt: bool) -> None:
    path = as_npy(tmp_path / "kept", [uid(n) for n in (*KEPT, 900)])
    config = config_of(tars, uids=str(path), adopt=adopt)
    expected = alone(config, tmp_path / "alone")
    manifest = shared(config, open_store(tmp_path / "store"), 2)
    assert hashes(open_store(tmp_path / "store")) == expected
    assert (manifest.uids.listed, manifest.uids.found) == (5, 4)
    as_npy(path.with_suffix(""), [uid(n) for n in (*KEPT, 0, 900)])  # one more, in a tar that is known
    grown = shared(config, open_store(tmp_path / "store"), 2)
    assert (grown.total, grown.uids.listed, grown.uids.found) == (5, 6, 5)


def test_groups_that_meet_none_say_so(tars: Path, tmp_path: Path, folder_store: Store) -> None:
    with pytest.raises(DataError, match="No sample has a uid of the list"):
        shared(config_of(tars, uids=str(as_npy(tmp_path / "kept", [uid(900)]))), folder_store, 2)
