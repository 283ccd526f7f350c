"""Reference features by sample index, out of one safetensors file per shard.

The file format is that of huggingface/safetensors: 8 bytes with the length of a JSON header (unsigned, little endian), the
header, then the tensors. Here it holds one tensor "features" [n, 2, dim] float16: image and text of each sample, unit norm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drrho_clip.data.cache import SizedCache
from drrho_clip.data.manifest import Manifest
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
    """Reads the features of any samples of a dataset version. Can be pickled; every process fills its own cache."""

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
        self._files: dict[int, _File] = {}
        self._units: SizedCache[bytes] = SizedCache(cache_bytes, len)

    def get(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the features float16 [n, 2, dim] (image, text) of the samples, in their order."""
        import torch

        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self._total:
            raise IndexError(f"samples {wanted.min()} .. {wanted.max()} of {self._total}")
        features = np.empty((len(wanted), 2, self.dim), dtype=np.float16)
        shards = np.searchsorted(self._bases, wanted, side="right") - 1
        rows = wanted - self._bases[shards]
        units = rows // UNIT_ROWS
        for shard, unit in np.unique(np.stack([shards, units]), axis=1).T.tolist():
            here = (shards == shard) & (units == unit)
            features[here] = self._unit(shard, unit)[rows[here] - unit * UNIT_ROWS]
        return torch.from_numpy(features)

    def _unit(self, shard: int, unit: int) -> NDArray[np.float16]:
        data = self._units.get((shard, unit), lambda: self._read(shard, unit))
        return np.frombuffer(data, dtype="<f2").reshape(-1, 2, self.dim)

    def _read(self, shard: int, unit: int) -> bytes:
        file = self._files.get(shard)
        if file is None:
            file = self._files[shard] = self._open(self._shards[shard])
        first = unit * UNIT_ROWS
        row_bytes = 4 * self.dim
        count = min(UNIT_ROWS, file.rows - first)
        try:
            return self.store.read_range(file.key, file.start + first * row_bytes, count * row_bytes, etag=file.etag)
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
