"""The member offsets of a tar of samples, in the text format of NVIDIA DALI's wds2idx, version v1.2.

Source of the format: NVIDIA/DALI, tools/wds2idx.py; what `nvidia.dali.fn.readers.webdataset(index_paths=...)` takes. The first
line is `v1.2 <number of samples>`; then one line per sample holds `extension offset size filename` of each of its members, all
separated by single spaces. The offset is that of the member's data, 512 bytes behind its header. White space, "%" and what is not
ASCII are written as %XX (RFC 3986) in names: tars that others wrote can have any.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from drrho_clip.errors import DataError

VERSION = "v1.2"
BLOCK = 512  # bytes; headers and data of a tar start at multiples of it

_PLAIN = "!\"#$&'()*+,/:;<=>?@[\\]^`{|}~"  # besides letters, digits and "_.-~"


class Member(NamedTuple):
    """One file of a sample: its data lies at `offset` .. `offset + size` of the tar."""

    extension: str
    offset: int
    size: int
    name: str


class TarIndex:
    """Where the members of every sample lie: the text of the index file, of which a line is split when it is asked for."""

    def __init__(self, text: bytes, *, where: str = "") -> None:
        """Take an index file as it is; raise DataError where its header or its number of lines is wrong."""
        self.text = text
        self._where = where
        self._ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        header = text[: self._ends[0]].decode(errors="replace") if len(self._ends) else ""
        if not header.startswith(VERSION + " "):
            raise self._damaged(f"it starts with {header[:20]!r} instead of '{VERSION}'")
        if header != f"{VERSION} {len(self)}":
            raise self._damaged(f"it has {len(self)} whole lines of samples, its header says {header!r}")

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return len(self.text) + int(self._ends.nbytes)

    def members(self, position: int) -> tuple[Member, ...]:
        """Return the members of the sample at a position; raise DataError where the line cannot be understood."""
        line = self.text[self._ends[position] + 1 : self._ends[position + 1]]
        plain = unquote if b"%" in line else str
        try:
            fields = iter(line.decode().split(" "))
            groups = zip(fields, fields, fields, fields, strict=True)
            return tuple([Member(plain(kind), int(offset), int(size), plain(name)) for kind, offset, size, name in groups])
        except ValueError:
            raise self._damaged(f"line {position + 2} is not 'extension offset size filename ...'") from None

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"The index of a shard is damaged: {why}",
            where=self._where,
            fix="Delete it: it is then made anew from the tar beside it.",
        )


def whole_blocks(size: int) -> int:
    """Return how many bytes of a tar it takes to hold `size` bytes."""
    return -(-size // BLOCK) * BLOCK


def index_text(samples: Iterable[Iterable[Member]]) -> bytes:
    """Return the index file of samples that have these members."""
    lines = [" ".join(map(_entry, members)) for members in samples]
    return "\n".join([f"{VERSION} {len(lines)}", *lines, ""]).encode()


def index_tar(stream: BinaryIO) -> TarIndex:
    """Index a tar by reading it whole; members whose names are equal up to the first dot are one sample."""
    samples: dict[str, list[Member]] = {}
    for stem, member in _members(stream):
        samples.setdefault(stem, []).append(member)
    return TarIndex(index_text(samples.values()))


def _entry(member: Member) -> str:
    return f"{quote(member.extension, _PLAIN)} {member.offset} {member.size} {quote(member.name, _PLAIN)}"


def _members(stream: BinaryIO) -> Iterator[tuple[str, Member]]:
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for info in tar:
            if info.isfile():
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                yield folder + slash + stem, Member(extension, info.offset_data, info.size, info.name)
