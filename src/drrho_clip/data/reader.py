"""Samples by their index: ranged reads of runs of consecutive samples, pinned to the bytes that the manifest names."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from drrho_clip.data import ahead
from drrho_clip.data.adopted import rules_of, sample_of
from drrho_clip.data.cache import SizedCache
from drrho_clip.data.manifest import REPAIR, Manifest, Shard
from drrho_clip.data.pieces import Pieces, extent, read_pieces
from drrho_clip.data.sources.captions import BadRow
from drrho_clip.data.tar_index import Member, TarIndex, index_tar
from drrho_clip.errors import DataError, ObjectChanged, ObjectMissing
from drrho_clip.storage import layout
from drrho_clip.storage.places import Places

if TYPE_CHECKING:
    from drrho_clip.storage import Store

T = TypeVar("T")

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
INDEX_BYTES = 128 * 2**20  # held of the shards' indexes: training mixes samples of up to 1,024 shards
INDEX_KEYS = 2**18  # held of the keys of adopted tars


@dataclass(frozen=True)
class Sample:
    """One sample as it is stored: the image still encoded, its metadata still JSON where it lies so in a tar of ours."""

    index: int
    image: bytes = field(repr=False)
    caption: str
    stored_meta: bytes | dict[str, Any] = field(repr=False)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What is known of it; read when it is asked for, which training never does."""
        found: dict[str, Any] = json.loads(self.stored_meta) if isinstance(self.stored_meta, bytes) else self.stored_meta
        return found


class SampleReader:
    """Reads any sample of a dataset version and holds `cache_bytes` at most; a pickled copy starts empty.

    Where the whole dataset fits, `get` fetches runs of samples, each once. Where it does not, a run would often be gone before
    its second sample is asked for (training mixes thousands of runs), so that `get` fetches the sample alone.
    """

    def __init__(self, store: Store, manifest: Manifest, cache_bytes: int = 256 * 2**20, *, places: Places | None = None) -> None:
        """Take `places` where many readers share what they open."""
        self.store, self.manifest = store, manifest
        self._bases = [shard.base for shard in manifest.shards]
        self._total = manifest.total
        self.in_runs = sum(shard.bytes for shard in manifest.shards) <= cache_bytes
        self._places, self._rules = places or Places(store), rules_of(manifest)
        self._runs: SizedCache[Pieces] = SizedCache(cache_bytes, attrgetter("size"))
        self._keys: SizedCache[list[str]] = SizedCache(INDEX_KEYS, len)
        self._indexes: SizedCache[TarIndex] = SizedCache(INDEX_BYTES, attrgetter("nbytes"))

    def check(self) -> None:
        """Compare every shard with the store, without reading it; raise DataError that names what is gone or altered."""
        self.manifest.check(self.store)

    def get(self, index: int) -> Sample:
        """Return one sample; DataError names the shard that is gone or altered, IndexError where there is no such sample."""
        shard, position = self.place(index)
        if not self.in_runs:
            return self.cut(shard, position, self.read(shard, [position]))
        key, first = self.run(index)
        run = range(first, min(first + ahead.run_samples(shard), shard.count))
        return self.cut(shard, position, self._runs.get((key, first), lambda: self.read(shard, run)))

    def shard(self, shard: Shard) -> Iterator[Sample]:
        """Yield the samples of one shard in order, read ahead in threads, past the cache."""
        return (sample for _, sample in self.in_order([shard]))

    def in_order(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Sample]]:
        """Yield the samples of shards in order, each with its shard; the next shards are read ahead too."""
        return ahead.in_order(self, shards)

    def place(self, index: int) -> tuple[Shard, int]:
        """Return the shard of a sample and its position in it; IndexError where there is no such sample."""
        if not 0 <= index < self._total:
            raise IndexError(f"sample {index} of {self._total}")
        shard = self.manifest.shards[bisect.bisect_right(self._bases, index) - 1]
        return shard, index - shard.base

    def run(self, index: int) -> tuple[str, int]:
        """Return which run of consecutive samples a sample belongs to: the shard's key and the run's first position."""
        shard, position = self.place(index)
        return shard.key, position - position % ahead.run_samples(shard)

    def span(self, shard: Shard, position: int) -> tuple[int, int]:
        """Return the first byte of all that belongs to a sample, and the one behind the last; others' may lie between."""
        extents = [extent(member) for member in self._index(shard).members(position)]
        return min(start for start, _ in extents), max(stop for _, stop in extents)

    def read(self, shard: Shard, positions: Sequence[int]) -> Pieces:
        """Read the samples at these positions of a shard; DataError where it is gone or altered."""
        index = self._index(shard)
        if shard.adopted is None:  # our own samples lie one behind the other
            extents = [(self.span(shard, min(positions))[0], self.span(shard, max(positions))[1])]
        else:
            extents = [extent(member) for position in positions for member in index.members(position)]
        store, key = self._places.find(shard.location)
        return self._pinned(
            shard, lambda: read_pieces(extents, lambda start, length: store.read_range(key, start, length, etag=shard.etag))
        )

    def cut(self, shard: Shard, position: int, unit: Pieces) -> Sample:
        """Return the sample at a position out of what was read with it."""
        parts = [(member, self._member(shard, member, unit)) for member in self._index(shard).members(position)]
        if shard.adopted:
            return self._adopted(shard, position, parts)
        by_extension = {member.extension: data for member, data in parts}
        name = sample_name(shard.base + position)
        images = [by_extension[extension] for extension in IMAGE_EXTENSIONS if extension in by_extension]
        named = all(member.name == f"{name}.{member.extension}" for member, _ in parts)
        if not named or len(images) != 1 or "txt" not in by_extension or "json" not in by_extension:
            raise self._unusable(shard, f"its index names no sample {name} with an image, a txt and a json")
        return Sample(shard.base + position, images[0], by_extension["txt"].decode(), by_extension["json"])

    def _adopted(self, shard: Shard, position: int, parts: list[tuple[Member, bytes]]) -> Sample:
        key = self._keys.get(shard.key, lambda: self._load_keys(shard))[position]
        try:
            image, caption, meta = sample_of(self._rules, key, parts)
        except (BadRow, ValueError) as error:
            raise self._unusable(shard, f"what it holds of '{key}' is not what was adopted: {error}") from None
        return Sample(shard.base + position, image, caption, meta)

    def _member(self, shard: Shard, member: Member, unit: Pieces) -> bytes:
        data = unit.member(member)
        if data is None:
            raise self._unusable(shard, f"its index and its bytes disagree at {member.name}")
        return data

    def _index(self, shard: Shard) -> TarIndex:
        return self._indexes.get(shard.key, lambda: self._load_index(shard))

    def _load_index(self, shard: Shard) -> TarIndex:
        key = layout.shard_index(shard.key)
        try:
            text = self.store.read(key)
            if shard.adopted and hashlib.sha256(text).hexdigest() != shard.adopted.index_sha256:
                raise self._unusable(shard, "its index was altered after it was published")
            index = TarIndex(text, where=self.store.uri_of(key))
        except ObjectMissing:
            if shard.adopted:  # which of the members are used is written nowhere else
                raise self._unusable(shard, "its index is gone") from None
            index = self._pinned(shard, lambda: self._index_tar(shard))
        if len(index) != shard.count:
            raise self._unusable(shard, f"its index has {len(index)} samples, the manifest {shard.count}")
        return index

    def _load_keys(self, shard: Shard) -> list[str]:
        keys = find_keys(self.store, shard)
        if keys is None:
            raise self._unusable(shard, "the keys of its samples are gone")
        return keys

    def _index_tar(self, shard: Shard) -> TarIndex:
        with self.store.open(shard.key, etag=shard.etag) as stream:
            return index_tar(stream)

    def _pinned(self, shard: Shard, read: Callable[[], T]) -> T:
        try:
            return read()
        except ObjectMissing:
            raise self._unusable(shard, "it is gone") from None
        except ObjectChanged:
            raise self._unusable(shard, "it was altered after it was published") from None

    def _unusable(self, shard: Shard, why: str) -> DataError:
        return DataError(
            f"Shard {shard.key} of dataset '{self.manifest.name}' version {self.manifest.version} cannot be used: {why}",
            where=self.store.uri_of(shard.key) if shard.adopted is None else shard.adopted.location,
            fix=REPAIR,
        )


def find_keys(store: Store, shard: Shard) -> list[str] | None:
    """Return the source's keys of a shard's samples from the file beside it; None where there is none that can be used."""
    try:
        keys = json.loads(store.read(layout.shard_keys(shard.key)))
    except (ObjectMissing, ValueError):
        return None
    return keys if isinstance(keys, list) and len(keys) == shard.count else None


def sample_name(index: int) -> str:
    """Name of a sample's members in a tar, without the extension."""
    return f"{index:09d}"
