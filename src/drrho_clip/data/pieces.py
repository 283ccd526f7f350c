"""Pieces of a tar: the ranges in which given members lie, and the members cut out of them.

In tars that others wrote, the members of a sample may lie apart, in any order and with others between them. What is near each
other is read at once; what is not, in several ranges. A member is taken only if the header before it has its name and size.
"""

from __future__ import annotations

import bisect
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from drrho_clip.data.sources.fields import display
from drrho_clip.data.tar_index import BLOCK, Member, whole_blocks

GAP_BYTES = 64 * 2**10  # as much is read and thrown away, rather than to ask once more
NAME_BYTES = 100  # of the name in a header; longer ones stand in a header of their own before it (POSIX.1-2001, GNU tar)
SIZE_FIELD = 124  # where it starts in a header (POSIX.1-1988, ustar): eleven octal digits
_OTHER_HEADERS = 4 * BLOCK  # besides the name itself: their own headers, times and what else stands there


@dataclass(frozen=True)
class Pieces:
    """Ranges of a tar: the first byte of each, in ascending order, and the bytes from there on."""

    starts: tuple[int, ...]
    data: tuple[bytes, ...]

    @cached_property
    def size(self) -> int:
        """Bytes that it holds."""
        return sum(map(len, self.data))

    def member(self, member: Member) -> bytes | None:
        """Return the bytes of a member; None if its header says another name or size: a wrong index never gives a wrong pair."""
        found = bisect.bisect_right(self.starts, member.offset) - 1
        if found < 0:
            return None
        data, at = self.data[found], member.offset - self.starts[found]
        content = data[at : at + member.size]
        if len(content) != member.size:
            return None
        if _is_plain_header(data, at - BLOCK, member):
            return content
        headers = data[max(0, extent(member)[0] - self.starts[found]) : at]
        return content if is_header_of(headers, member) else None


def extent(member: Member) -> tuple[int, int]:
    """Return the first byte of all that can be headers of a member, and the one behind its data."""
    name = member.name.encode()
    special = len(name) > NAME_BYTES or not member.name.isascii()
    headers = BLOCK + (_OTHER_HEADERS + whole_blocks(len(name)) if special else 0)
    return max(0, member.offset - headers), member.offset + member.size


def read_pieces(extents: Iterable[tuple[int, int]], read_range: Callable[[int, int], bytes]) -> Pieces:
    """Read these extents, near ones together; `read_range` takes start and length in bytes."""
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted(extents):
        if ranges and start <= ranges[-1][1] + GAP_BYTES:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], stop))
        else:
            ranges.append((start, stop))
    return Pieces(tuple(start for start, _ in ranges), tuple(read_range(start, stop - start) for start, stop in ranges))


def is_header_of(headers: bytes, member: Member) -> bool:
    """Whether `headers`, which end where the data of a member begins, have its name and size."""
    if _is_plain_header(headers, len(headers) - BLOCK, member):
        return True
    header, name = headers[-BLOCK:], member.name.encode()
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return info.size == member.size and (display(info.name) == member.name or _is_long_name(headers[:-BLOCK], name))


def _is_plain_header(data: bytes, at: int, member: Member) -> bool:
    """Whether the header that starts `at` has this name and size as most tars write them."""
    size = b"%011o" % member.size
    return at >= 0 and data.startswith(member.name.encode() + b"\0", at) and data.startswith(size, at + SIZE_FIELD)


def _is_long_name(headers: bytes, name: bytes) -> bool:
    """Whether a name stands in the extended header before a member's own: POSIX's has records, GNU's the name alone."""
    start = len(headers) - whole_blocks(len(name) + 1)
    return b" path=" + name + b"\n" in headers or (start >= 0 and headers[start:].rstrip(b"\0") == name)
