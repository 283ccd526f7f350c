"""Samples by their index: ranged reads of runs of consecutive samples, pinned to the bytes that the manifest names."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from drrho_clip.data import ahead
from drrho_clip.data.cache import SizedCache
from drrho_clip.data.manifest import REPAIR, Manifest, Shard
from drrho_clip.data.tar_index import BLOCK, Member, TarIndex, index_tar
from drrho_clip.errors import DataError, ObjectChanged, ObjectMissing
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

T = TypeVar("T")

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
SIZE_FIELD = slice(124, 135)  # of a tar header (POSIX.1-1988, ustar): eleven octal digits
INDEX_BYTES = 128 * 2**20  # held of the shards' indexes: training mixes samples of up to 1,024 shards


@dataclass(frozen=True)
class Sample:
    """One sample as it is stored: the image still encoded."""

    index: int
    image: bytes = field(repr=False)
    caption: str
    meta: dict[str, Any] = field(repr=False)


class SampleReader:
    """Reads any sample of a dataset version and holds `cache_bytes` at most; a pickled copy starts empty.

    Where the whole dataset fits, `get` fetches runs of samples, each once. Where it does not, a run would often be gone before
    its second sample is asked for (training mixes thousands of runs), so that `get` fetches the sample alone.
    """

    def __init__(self, store: Store, manifest: Manifest, cache_bytes: int = 256 * 2**20) -> None:
        self.store, self.manifest = store, manifest
        self._bases = [shard.base for shard in manifest.shards]
        self._total = manifest.total
        self.in_runs = sum(shard.bytes for shard in manifest.shards) <= cache_bytes
        self._runs: SizedCache[bytes] = SizedCache(cache_bytes, len)
        self._indexes: SizedCache[TarIndex] = SizedCache(INDEX_BYTES, attrgetter("nbytes"))

    def check(self) -> None:
        """Compare every shard with the store, without reading it; raise DataError that names what is gone or altered."""
        self.manifest.check(self.store)

    def get(self, index: int) -> Sample:
        """Return one sample; DataError names the shard that is gone or altered, IndexError where there is no such sample."""
        shard, position = self.place(index)
        key, first = self.run(index) if self.in_runs else (shard.key, position)
        end = min(first + ahead.run_samples(shard), shard.count) if self.in_runs else position + 1
        start, length = self.span(shard, first, end)
        if not self.in_runs:
            return self.cut(shard, position, self.read(shard, start, length), start)
        return self.cut(shard, position, self._runs.get((key, first), lambda: self.read(shard, start, length)), start)

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

    def span(self, shard: Shard, first: int, end: int) -> tuple[int, int]:
        """Return where the samples at the positions first .. end - 1 of a shard lie: first byte and length."""
        return self._index(shard).span(first, end)

    def read(self, shard: Shard, start: int, length: int) -> bytes:
        """Read bytes of a shard; DataError where it is gone or altered."""
        return self._pinned(shard, lambda: self.store.read_range(shard.key, start, length, etag=shard.etag))

    def cut(self, shard: Shard, position: int, unit: bytes, start: int) -> Sample:
        """Return the sample at a position out of the bytes of its shard from `start` on."""
        members = self._index(shard).members(position)
        parts = {member.extension: self._member(shard, member, unit, start) for member in members}
        name = sample_name(shard.base + position)
        images = [parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts]
        named = all(member.name == f"{name}.{member.extension}" for member in members)
        if not named or len(images) != 1 or "txt" not in parts or "json" not in parts:
            raise self._unusable(shard, f"its index names no sample {name} with an image, a txt and a json")
        return Sample(shard.base + position, images[0], parts["txt"].decode(), json.loads(parts["json"]))

    def _member(self, shard: Shard, member: Member, unit: bytes, shift: int) -> bytes:
        """Cut a member out of a unit if name and size are those of its header: a wrong index never gives a wrong pair."""
        start = member.offset - shift
        header = unit[max(0, start - BLOCK) : max(0, start)]
        name = member.name.encode() + b"\0"
        if header[: len(name)] != name or header[SIZE_FIELD] != b"%011o" % member.size:
            raise self._unusable(shard, f"its index and its bytes disagree at {member.name}")
        return unit[start : start + member.size]

    def _index(self, shard: Shard) -> TarIndex:
        return self._indexes.get(shard.key, lambda: self._load_index(shard))

    def _load_index(self, shard: Shard) -> TarIndex:
        key = layout.shard_index(shard.key)
        try:
            index = TarIndex(self.store.read(key), where=self.store.uri_of(key))
        except ObjectMissing:
            index = self._pinned(shard, lambda: self._index_tar(shard))
        if len(index) != shard.count:
            raise self._unusable(shard, f"its index has {len(index)} samples, the manifest {shard.count}")
        return index

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
            where=self.store.uri_of(shard.key),
            fix=REPAIR,
        )


def sample_name(index: int) -> str:
    """Name of a sample's members in a tar, without the extension."""
    return f"{index:09d}"
