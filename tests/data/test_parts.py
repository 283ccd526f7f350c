"""What groups hand on: nothing of a row is lost, the first part stays, and what is of no use any more goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drrho_clip.data.images import PreparedImage
from drrho_clip.data.parts import PartFile, Parts, PartsGone, Result
from drrho_clip.data.prepare import Prepared
from drrho_clip.data.sources.base import Fetch, Place, Rejected
from drrho_clip.data.tar_index import Member
from drrho_clip.errors import DataError
from drrho_clip.storage import Store

FETCH = Fetch("http://a.test/\udce4", 200, 2, "ab" * 32)
IMAGE = PreparedImage(b"\x00image", "webp", 30, 20, "RGBA", (2**64 - 1, 7))
MEMBER = Member("jpg", 512, 1000, "a b.jpg")
ROWS = (
    Result(Prepared("000000001", IMAGE, "Möwe \U0001f426", None, "heldout", {"url": "x", "n": 1.5, "list": [1]}, FETCH), True),
    Result(Prepared("a/b", PreparedImage(b"", "png", 1, 1, "L"), "b", "bird", "train", {}), True),
    Result(Rejected("000000002", "timeout", "after 30 s \udcff", FETCH), True),
    Result(Rejected("row 9", "malformed_row", ""), False),
    # of a sample that is adopted the picture stays where it lies
    Result(Prepared("t", PreparedImage(b"", "jpg", 9, 9, "RGB"), "t", None, "train", {}, place=Place(3, (MEMBER, MEMBER))), True),
)


@pytest.fixture
def parts(store: Store) -> Parts:
    return Parts(store, "pets", "f1", rounds=2)


def put(parts: Parts, piece: int, round_number: int, *rows: Result) -> bool:
    file = PartFile()
    try:
        for row in rows:
            file.add(row)
        return parts.write(piece, round_number, file.end({"piece": piece}))
    finally:
        file.remove()


def read(parts: Parts, *wanted: tuple[int, int]) -> list[Result]:
    return list(parts.read(wanted, lambda note: None))


def test_rows_come_back_as_they_were_part_by_part(parts: Parts) -> None:
    many = ROWS * 50
    assert put(parts, 0, 1, *many)
    assert put(parts, 1, 1)
    assert put(parts, 2, 1, ROWS[1])
    notes: list[dict[str, Any]] = []
    assert list(parts.read([(0, 1), (1, 1), (2, 1), (0, 1)], notes.append)) == [*many, ROWS[1], *many]
    assert notes == [{"piece": piece} for piece in (0, 1, 2, 0)]
    assert list(parts.settled(0, 1)) == [result.row.key for result in many]
    assert read(parts) == []


def test_the_first_part_stays(parts: Parts) -> None:
    assert put(parts, 3, 1, ROWS[0])
    assert not put(parts, 3, 1, ROWS[1], ROWS[2])
    assert read(parts, (3, 1)) == [ROWS[0]]


def test_rounds_count_from_the_first_one_on(parts: Parts) -> None:
    for piece, round_number in ((0, 1), (0, 2), (4, 1), (5, 2)):
        put(parts, piece, round_number)
    put(Parts(parts.store, "pets", "f2", rounds=2), 6, 1)
    assert parts.finished() == {0: 2, 4: 1}


def test_a_process_whose_parts_were_cleaned_up_leaves_nothing_behind(parts: Parts) -> None:
    first, second = parts.enter(), parts.enter()
    put(parts, 0, 1, ROWS[0])
    parts.leave(second)
    assert parts.is_wanted(first)
    assert parts.has(0, 1)
    parts.clean()
    assert not parts.is_wanted(first)
    put(parts, 1, 1, ROWS[0])
    parts.leave(first)
    assert list(parts.store.list()) == []


def test_parts_that_are_gone_or_spoilt(parts: Parts) -> None:
    with pytest.raises(PartsGone):
        read(parts, (0, 1))
    with pytest.raises(PartsGone):
        list(parts.settled(0, 1))
    parts.store.write(parts.key(0, 1), b"no Parquet")
    with pytest.raises(DataError, match="What a group has prepared cannot be read"):
        read(parts, (0, 1))


def test_no_file_is_left_in_the_temporary_folder(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    put(parts, 0, 1, *ROWS)
    rows = parts.read([(0, 1), (0, 1)], lambda note: None)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert list((tmp_path / "temporary").iterdir()) == []
