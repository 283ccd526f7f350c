"""Reference features by sample index, out of one safetensors file per shard.

The file format is that of huggingface/safetensors: 8 bytes with the length of a JSON header (unsigned, little endian), the
header, then the tensors. Here it holds one tensor "features" [n, 2, dim] float16: image and text of each sample, unit norm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drrho_clip.data.ahead import Submit, at_once
from drrho_clip.data.cache import SizedCache
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.pieces import GAP_BYTES
from drrho_clip.data.reference_manifest import ReferenceShard, check_reference, load_reference_manifest
from drrho_clip.errors import DataError, ObjectChanged, ObjectMissing

if TYPE_CHECKING:
    from torch import Tensor

    from drrho_clip.storage import Store

TENSOR = "features"
UNIT_ROWS = 1024


@dataclass(frozen=True)
class _File:
    """Where the rows of one features file start, and which version of the file that was read from."""

    key: str
    etag: str
    start: int
    rows: int


class FeatureReader:
    """Reads the features of any samples of a dataset version. Can be pickled; every process fills its own cache.

    Where all features fit into `cache_bytes` they are read in units of 1,024 rows, each once; else near rows together.
    """

    def __init__(self, store: Store, dataset: str, reference_id: str, manifest: Manifest, cache_bytes: int = 128 * 2**20) -> None:
        """Refuse, with a DataError, features that were computed for another dataset version."""
        self.store, self.reference_id = store, reference_id
        self.reference = load_reference_manifest(store, dataset, reference_id)
        check_reference(self.reference, manifest, reference_id)
        self.dim = self.reference.identity.dim
        by_key = {shard.key: shard for shard in self.reference.shards}
        self._shards = [by_key[shard.key] for shard in manifest.shards]
        self._bases = np.array([shard.base for shard in manifest.shards], dtype=np.int64)
        self._total = manifest.total
        self._in_units = self._total * 4 * self.dim <= cache_bytes
        self._files: dict[int, _File] = {}
        self._units: SizedCache[bytes] = SizedCache(cache_bytes, len)

    def get(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the features float16 [n, 2, dim] (image, text) of the samples, in their order."""
        return self.start(indices, at_once)(indices)

    def start(self, indices: NDArray[np.int64], submit: Submit) -> Callable[[NDArray[np.int64]], Tensor]:
        """Begin to read the features of samples; what is returned waits for those of some of them, and returns them as `get`."""
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if wanted.size and not 0 <= wanted[0] <= wanted[-1] < self._total:
            raise IndexError(f"samples {wanted[0]} .. {wanted[-1]} of {self._total}")
        shards = np.searchsorted(self._bases, wanted, side="right") - 1
        rows = wanted - self._bases[shards]
        spans = list(self._spans(shards, rows))
        starts = np.array([self._bases[shard] + first for shard, first, _ in spans], dtype=np.int64)
        read = self._held if self._in_units else self._read
        started = [submit(partial(read, *span)) for span in spans]

        def features(some: NDArray[np.int64]) -> Tensor:
            import torch

            found = np.empty((len(some), 2, self.dim), dtype=np.float16)
            places = np.searchsorted(starts, some, side="right") - 1
            for place in np.unique(places).tolist():
                here = places == place
                data = np.frombuffer(started[place].result(), dtype="<f2").reshape(-1, 2, self.dim)
                found[here] = data[some[here] - starts[place]]
            return torch.from_numpy(found)

        return features

    def _spans(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first row, end row) of what is read for these rows, which are sorted: units, or runs of near rows."""
        if self._in_units:
            for shard, unit in np.unique(np.stack([shards, rows // UNIT_ROWS]), axis=1).T.tolist():
                yield shard, unit * UNIT_ROWS, min((unit + 1) * UNIT_ROWS, self._shards[shard].count)
            return
        apart = (np.diff(shards) != 0) | (np.diff(rows) * 4 * self.dim > GAP_BYTES)
        firsts = np.flatnonzero(np.concatenate([[True], apart])) if len(rows) else np.empty(0, dtype=np.int64)
        for first, end in pairwise([*firsts.tolist(), len(rows)]):
            yield int(shards[first]), int(rows[first]), int(rows[end - 1]) + 1

    def _held(self, shard: int, first: int, end: int) -> bytes:
        return self._units.get((shard, first), lambda: self._read(shard, first, end))

    def _read(self, shard: int, first: int, end: int) -> bytes:
        file = self._files.get(shard)
        if file is None:
            file = self._files[shard] = self._open(self._shards[shard])
        row_bytes = 4 * self.dim
        try:
            return self.store.read_range(file.key, file.start + first * row_bytes, (end - first) * row_bytes, etag=file.etag)
        except (ObjectMissing, ObjectChanged):
            raise self._unusable(file.key, "it was replaced while it was read") from None

    def _open(self, shard: ReferenceShard) -> _File:
        info = self.store.head(shard.features_key)
        if info is None:
            raise self._unusable(shard.features_key, "it is gone")
        try:
            if info.size < 8:
                raise ValueError(f"{info.size} bytes")
            length = int.from_bytes(self.store.read_range(shard.features_key, 0, 8, etag=info.etag), "little")
            if not 0 < length < info.size:
                raise ValueError(f"a header of {length} bytes in a file of {info.size}")
            tensor = json.loads(self.store.read_range(shard.features_key, 8, length, etag=info.etag))[TENSOR]
            expected = {"dtype": "F16", "shape": [shard.count, 2, self.dim]}
            if {name: tensor[name] for name in expected} != expected:
                raise ValueError(f"it holds {tensor['dtype']} {tensor['shape']}, expected F16 {expected['shape']}")
            start, end = tensor["data_offsets"]
            if end - start != shard.count * 4 * self.dim or 8 + length + end > info.size:
                raise ValueError("it is cut short")
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable(shard.features_key, f"it is not the file that was written: {error}") from None
        return _File(shard.features_key, info.etag, 8 + length + start, shard.count)

    def _unusable(self, key: str, why: str) -> DataError:
        return DataError(
            f"Features of reference '{self.reference_id}' cannot be used: {why}",
            where=self.store.uri_of(key),
            fix="Run `drrho reference` again: it computes what is missing or damaged.",
        )
