"""Which images came before: by their bytes (sha256) and by their look (`looks_of`), some 40 bytes of memory an image."""

from __future__ import annotations

from array import array
from dataclasses import replace

from drrho_clip.data.prepare import Prepared
from drrho_clip.data.sources.base import Rejected

DUPLICATE_KINDS = ("content", "look")

_FIRST_SLOTS = 1 << 12
_FULL = 0.6


class HashSet:
    """A set of 64-bit hashes in one block of memory (open addressing)."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._count = 0

    def __contains__(self, value: int) -> bool:
        return self._slots[self._place(value)] != 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: int) -> None:
        """Add a hash; 0 and 1 are taken for the same."""
        place = self._place(value)
        if not self._slots[place]:
            self._slots[place] = value or 1
            self._count += 1
            if self._count > _FULL * len(self._slots):
                self._grow()

    def _place(self, value: int) -> int:
        """Return the slot of `value`, or the empty one where it belongs."""
        value = value or 1
        slots = self._slots
        mask = len(slots) - 1
        place = value & mask
        while slots[place] not in (0, value):
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
        for value in old:
            if value:
                self._slots[self._place(value)] = value


class Duplicates:
    """Tells for one sample after the other whether an earlier one had its bytes or its look, and drops it if asked to.

    `drop` is "none", "content" (same bytes) or "look" (same bytes or look).
    """

    def __init__(self, drop: str) -> None:
        self._drop = drop
        self._contents, self._looks = HashSet(), HashSet()

    def judge(self, sample: Prepared) -> Prepared | Rejected:
        """Return the sample, marked if it is a duplicate, or its rejection."""
        assert sample.fetch is not None
        content = _content(sample.fetch.sha256)
        looks = sample.image.looks
        kind = ""
        if content in self._contents:
            kind = "content"
        elif any(look in self._looks for look in looks):
            kind = "look"
        self.remember(sample.fetch.sha256, looks[0] if looks else None, kind)
        if kind and self._drop in (kind, "look"):
            same = "bytes" if kind == "content" else "look"
            return Rejected(sample.key, f"duplicate_{kind}", f"an earlier row has the same {same}", sample.fetch)
        return replace(sample, duplicate=kind)

    def remember(self, sha256: str, look: int | None, kind: str) -> None:
        """Take note of a sample that was judged to be a duplicate of this kind, or ("") of none."""
        if kind != "content":
            self._contents.add(_content(sha256))
        if not kind and look is not None:
            self._looks.add(look)


def _content(sha256: str) -> int:
    return int(sha256[:16], 16)
