"""The members of a tar and where their bytes are, from its headers alone."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drrho_clip.data.sources.fields import display
from drrho_clip.errors import DataError

_BLOCK = 512
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, and the place of its bytes in the tar."""

    name: str
    offset: int
    size: int


def index_tar(path: Path, where: str, whole_samples: Callable[[list[Member]], int]) -> list[Member]:
    """List the files in the tar at `path`, which messages call `where`.

    Raises DataError where the file is no tar, or is cut short or broken: with the byte where reading ends, and the number of
    `whole_samples` before it. A tar whose end mark is missing counts as cut.
    """
    size = path.stat().st_size
    members: list[Member] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isreg() and not info.issparse():
                    members.append(Member(display(info.name), info.offset_data, info.size))
            problem = _after_the_end(path, tar.offset)
            stopped = min(tar.offset, size)
    except tarfile.ReadError as error:
        if not members:
            raise _no_tar(path, where, error) from None
        problem, stopped = "the file ends within a member", size
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _no_tar(path, where, error) from None
    if problem:
        whole = whole_samples([member for member in members if member.offset + member.size <= size])
        raise DataError(
            f"The tar is broken at byte {stopped}: {problem}; {whole} whole samples come before",
            where=where,
            fix="Fetch or write it again, or leave it out of `path`.",
        )
    return members


def _after_the_end(path: Path, offset: int) -> str:
    """Say what is wrong with the end mark that must stand at `offset`; "" = nothing."""
    with path.open("rb") as file:
        file.seek(offset)
        mark = file.read(_BLOCK)
        rest = file.read(20 * _BLOCK)
    if len(mark) < _BLOCK:
        return "the end mark is missing, so it was cut"
    if mark.strip(b"\0"):
        return "no member header stands there"
    return "another archive follows its end mark" if rest.strip(b"\0") else ""


def _no_tar(path: Path, where: str, error: Exception) -> DataError:
    with path.open("rb") as file:
        head = file.read(16)
    packing = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if packing:
        return DataError(
            f"The tar is packed with {packing}", where=where, fix="Unpack it: samples are read by their place in it."
        )
    return DataError(f"This is no tar ({error}); it starts with {head!r}", where=where, fix="Check `path`.")
