"""The member offsets of a tar of samples, in the text format of NVIDIA DALI's wds2idx, version v1.2.

Source of the format: NVIDIA/DALI, tools/wds2idx.py; what `nvidia.dali.fn.readers.webdataset(index_paths=...)` takes. The first
line is `v1.2 <number of samples>`; then one line per sample holds `extension offset size filename` of each of its members, all
separated by single spaces. The offset is that of the member's data, 512 bytes behind its header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from drrho_clip.errors import DataError

VERSION = "v1.2"
BLOCK = 512  # bytes; headers and data of a tar start at multiples of it


@dataclass(frozen=True)
class Member:
    """One file of a sample: its data lies at `offset` .. `offset + size` of the tar."""

    extension: str
    offset: int
    size: int
    name: str


class TarIndex:
    """Where the members of every sample lie. Keeps the lines and splits one when it is asked for."""

    def __init__(self, lines: list[str], *, where: str = "") -> None:
        self._lines = lines
        self._where = where
        self.starts: NDArray[np.int64] = np.array([self.members(i)[0].offset - BLOCK for i in range(len(lines))], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._lines)

    def members(self, position: int) -> tuple[Member, ...]:
        """Return the members of the sample at a position; raise DataError where the line cannot be understood."""
        fields = self._lines[position].split(" ")
        try:
            groups = [fields[i : i + 4] for i in range(0, len(fields), 4)]
            return tuple(Member(extension, int(offset), int(size), name) for extension, offset, size, name in groups)
        except ValueError:
            raise _damaged(self._where, f"line {position + 2} is not 'extension offset size filename ...'") from None

    def span(self, first: int, end: int) -> tuple[int, int]:
        """Return start and length in bytes of the samples first .. end - 1 with their headers, padding included."""
        last = self.members(end - 1)[-1]
        stop = last.offset + -(-last.size // BLOCK) * BLOCK
        return int(self.starts[first]), stop - int(self.starts[first])

    def dump(self) -> bytes:
        """Return the index as a file."""
        return "\n".join([f"{VERSION} {len(self)}", *self._lines, ""]).encode()


def parse_index(data: bytes, *, where: str) -> TarIndex:
    """Read an index file; raise DataError where it is damaged."""
    header, *lines = data.decode(errors="replace").removesuffix("\n").split("\n")
    if not header.startswith(VERSION + " "):
        raise _damaged(where, f"it starts with {header[:20]!r} instead of '{VERSION}'")
    if header != f"{VERSION} {len(lines)}":
        raise _damaged(where, f"it has {len(lines)} samples, its header says {header!r}")
    return TarIndex(lines, where=where)


def index_tar(stream: BinaryIO) -> TarIndex:
    """Index a tar by reading it whole; members whose names are equal up to the first dot are one sample."""
    samples: dict[str, list[str]] = {}
    for stem, member in _members(stream):
        samples.setdefault(stem, []).append(f"{member.extension} {member.offset} {member.size} {member.name}")
    return TarIndex([" ".join(groups) for groups in samples.values()])


def _members(stream: BinaryIO) -> Iterator[tuple[str, Member]]:
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for info in tar:
            if info.isfile():
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                yield folder + slash + stem, Member(extension, info.offset_data, info.size, info.name)


def _damaged(where: str, why: str) -> DataError:
    return DataError(
        f"The index of a shard is damaged: {why}", where=where, fix="Delete it: it is then made anew from the tar beside it."
    )
