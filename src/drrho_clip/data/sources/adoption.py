"""Tars that are adopted: what pins each, where in it the samples lie, and which are known already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drrho_clip.data.manifest import REPAIR, Manifest
from drrho_clip.data.pieces import extent, is_header_of
from drrho_clip.data.sources.base import Place, Slice
from drrho_clip.data.sources.fields import ending_of
from drrho_clip.data.sources.locate import Tar
from drrho_clip.data.sources.tars import Member as TarMember
from drrho_clip.data.tar_index import Member
from drrho_clip.errors import DataError
from drrho_clip.storage import ObjectInfo, Store
from drrho_clip.storage.places import Places


@dataclass(frozen=True)
class TarFacts:
    """What a manifest says of a tar that is adopted; `bytes` is its size."""

    location: str
    etag: str
    sha256: str
    bytes: int


class Adoption:
    """The tars of a source, by their number in it, that are adopted into a dataset of `store`."""

    def __init__(self, store: Store, tars: Iterable[Tar]) -> None:
        """Find out where they lie; ConfigError for what cannot stand in a manifest."""
        self._places = Places(store)
        self._locations = [self._places.location_of(tar.uri) for tar in tars]
        self._known: dict[str, str] = {}  # ETag by location
        self._etags: dict[int, str] = {}  # of tars that are asked for, before they are read
        self.facts: dict[int, TarFacts] = {}
        if self._locations:
            self._head(self._locations[0])  # a server that does not send parts is found before anything is fetched

    def pass_over(self, existing: Manifest) -> None:
        """Read no tar again that a dataset has already."""
        self._known = {shard.location: shard.etag for shard in existing.shards}

    @property
    def passes_over(self) -> bool:
        """Whether tars of the dataset are not read again."""
        return bool(self._known)

    def is_known(self, number: int) -> bool:
        """Whether a tar is in the dataset already; DataError if it was altered since."""
        location = self._locations[number]
        if location in self._known and self._known[location] != self._etag(number):
            raise DataError("The tar was altered after it was adopted", where=location, fix=REPAIR)
        return location in self._known

    def begin(self, number: int) -> None:
        """Take note of a tar's version before it is read."""
        self._etag(number)

    def look(self, number: int, path: Path) -> None:
        """Take note of what pins a tar, which lies at `path` or was fetched there; DataError if it changed meanwhile."""
        location = self._locations[number]
        info = self._head(location)
        with path.open("rb") as stream:
            sha256, size = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
        if (info.size, info.etag) != (size, self._etag(number)):
            raise DataError("The tar is replaced while it is read", where=location, fix="Run this again once it stays as it is.")
        self.facts[number] = TarFacts(location, info.etag, sha256, size)

    def place(self, number: int, path: Path, members: Iterable[TarMember]) -> Place:
        """Return where a sample lies; DataError where a reader could not tell its members by their headers."""
        found = tuple(Member(ending_of(m.name)[1:] or "bin", m.offset, m.size, m.name) for m in members)
        for member in found:
            start, _ = extent(member)
            if not is_header_of(Slice(path, start, member.offset - start)(), member):
                raise DataError(
                    f"The header of the member '{member.name}' is of a kind that cannot be checked",
                    where=self._locations[number],
                    fix="Copy these tars (leave `adopt` out).",
                )
        return Place(number, found)

    def _etag(self, number: int) -> str:
        if number not in self._etags:
            self._etags[number] = self._head(self._locations[number]).etag
        return self._etags[number]

    def _head(self, location: str) -> ObjectInfo:
        store, key = self._places.find(location)
        info = store.head(key)
        if info is None:
            raise DataError("The tar is gone", where=location, fix="Check `path`.")
        return info
