from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from drrho_clip.data.tar_index import TarIndex, index_tar
from drrho_clip.errors import DataError


def make_tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


MEMBERS = {
    "000000000.json": b"{}",
    "000000000.png": b"p" * 700,
    "000000000.txt": b"a cat",
    "000000001.txt": b"",
    "000000001.webp": b"w" * 512,
}


def test_the_text_is_that_of_wds2idx() -> None:
    """Offsets counted by hand: a header of 512 bytes, then the data in blocks of 512."""
    assert index_tar(io.BytesIO(make_tar(MEMBERS))).text.decode() == (
        "v1.2 2\n"
        "json 512 2 000000000.json png 1536 700 000000000.png txt 3072 5 000000000.txt\n"
        "txt 4096 0 000000001.txt webp 4608 512 000000001.webp\n"
    )


def test_what_was_written_is_read_back_and_finds_the_members() -> None:
    data = make_tar(MEMBERS)
    index = TarIndex(index_tar(io.BytesIO(data)).text)
    found = {
        member.name: data[member.offset : member.offset + member.size] for i in range(len(index)) for member in index.members(i)
    }
    assert found == MEMBERS


def test_folders_of_a_tar_are_no_samples(tmp_path: Path) -> None:
    (tmp_path / "in/d.v1").mkdir(parents=True)
    (tmp_path / "in/d.v1/1.txt").write_text("one")
    (tmp_path / "in/d.v1/1.png").write_bytes(b"1")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "in/d.v1", "d.v1")
    with (tmp_path / "x.tar").open("rb") as stream:
        index = index_tar(stream)
    assert [sorted(member.name for member in index.members(i)) for i in range(len(index))] == [["d.v1/1.png", "d.v1/1.txt"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "starts with"),
        ("v1.1 1\ntxt 512 1 a.txt\n", "starts with 'v1.1 1'"),
        ("v1.2 2\ntxt 512 1 a.txt\n", "has 1 whole lines of samples, its header says 'v1.2 2'"),
        ("v1.2 1\ntxt 512 1\n", "line 2 is not"),
        ("v1.2 1\ntxt 512 one a.txt\n", "line 2 is not"),
        ("v1.2 1\n\n", "line 2 is not"),
        ("v1.2 1\ntxt 512 1 a.t", "has 0 whole lines"),
    ],
)
def test_a_damaged_index_is_named(text: str, said: str) -> None:
    with pytest.raises(DataError, match=f"{said}.*shards/000000.idx"):
        TarIndex(text.encode(), where="shards/000000.idx").members(0)
