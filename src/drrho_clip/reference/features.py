"""The files that hold the features, one per shard.

A safetensors file with "features" [n, 2, dim] float16 (image and text of each sample, unit norm) and "keys" (uint8: the samples'
own names as a JSON list). The entry "record" of its metadata holds, as JSON, the model's identity and the hashes of the shard,
the keys and the features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drrho_clip.data.manifest import Manifest, Shard
from drrho_clip.data.reference_manifest import ReferenceIdentity, ReferenceShard
from drrho_clip.errors import DataError, ObjectMissing, StorageError
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from torch import Tensor

    from drrho_clip.storage import Store

INSPECT_THREADS = 16
RECORD = "record"  # the one metadata entry: safetensors writes several in no fixed order


@dataclass(frozen=True)
class FeatureFiles:
    """The features of one dataset by one model, under one name."""

    store: Store
    dataset: str
    reference_id: str
    identity: ReferenceIdentity

    def key(self, shard: Shard) -> str:
        """Key of the features of a shard."""
        return layout.reference_features(self.dataset, self.reference_id, shard.key)

    def write(self, shard: Shard, features: Tensor, keys: list[str]) -> None:
        """Put the features float16 [n, 2, dim] of a shard, with the keys of its samples."""
        import torch
        from safetensors.torch import save

        names = json.dumps(keys).encode()
        record = {
            "identity": self.identity.model_dump(),
            "shard": shard.key,
            "shard_etag": shard.etag,
            "shard_sha256": shard.sha256,
            "keys_sha256": hashlib.sha256(names).hexdigest(),
            "features_sha256": _sha256(features),
        }
        tensors = {"features": features.contiguous(), "keys": torch.frombuffer(bytearray(names), dtype=torch.uint8)}
        self.store.write(self.key(shard), save(tensors, {RECORD: json.dumps(record)}))

    def read(self, shard: Shard) -> tuple[Tensor, list[str]]:
        """Return the features float16 [n, 2, dim] and the keys of a shard, whose hashes are checked."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        key = self.key(shard)
        try:
            data = self.store.read(key)
            record = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][RECORD])
            tensors = load(data)
            features, names = tensors["features"], tensors["keys"].numpy().tobytes()
            if record["features_sha256"] != _sha256(features) or record["keys_sha256"] != hashlib.sha256(names).hexdigest():
                raise ValueError("its hashes are not those that were written")
            return features, json.loads(names)
        except (ObjectMissing, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"Features of reference '{self.reference_id}' cannot be used: {error}",
                where=self.store.uri_of(key),
                fix="Delete this object and run `drrho reference` again: it computes what is missing.",
            ) from None

    def finished(self, shards: Iterable[Shard]) -> dict[str, ReferenceShard]:
        """Return, by key of the shard, the features that are there and belong to this model and to these very shards.

        Only the headers are read.
        """
        prefix = layout.reference(self.dataset, self.reference_id) + "/"
        sizes = {info.key: info.size for info in self.store.list(prefix)}
        there = [shard for shard in shards if sizes.get(self.key(shard), 0) >= shard.count * 4 * self.identity.dim]
        with ThreadPoolExecutor(INSPECT_THREADS) as pool:
            return {found.key: found for found in pool.map(self.find, there) if found is not None}

    def find(self, shard: Shard) -> ReferenceShard | None:
        """Return the features of one shard, None where they are not there or belong to another model or shard."""
        key = self.key(shard)
        try:
            length = int.from_bytes(self.store.read_range(key, 0, 8), "little")
            header = json.loads(self.store.read_range(key, 8, length))
            record: dict[str, Any] = json.loads(header["__metadata__"][RECORD])
            identity = ReferenceIdentity.model_validate(record["identity"])
            fits = (
                record["shard_sha256"] == shard.sha256
                and record["shard_etag"] == shard.etag
                and header["features"]["shape"] == [shard.count, 2, self.identity.dim]
                and identity.model_copy(update={"spec": self.identity.spec}) == self.identity
            )
        except (StorageError, ValueError, KeyError, TypeError):
            return None
        if not fits:
            return None
        return ReferenceShard(
            key=shard.key, etag=shard.etag, features_key=key, features_sha256=record["features_sha256"], count=shard.count
        )


def gather(files: FeatureFiles, manifest: Manifest, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
    """Return the features float16 [n, 2, dim] and the keys of the samples `indices`, which are sorted; one shard in memory."""
    import torch

    features, keys = [], []
    for shard in manifest.shards:
        rows = [index - shard.base for index in indices if shard.base <= index < shard.base + shard.count]
        if rows:
            tensor, names = files.read(shard)
            features.append(tensor[rows])
            keys += [names[row] for row in rows]
    return torch.cat(features), keys


def _sha256(tensor: Tensor) -> str:
    """Hash of the values: what a safetensors file holds of them, little endian."""
    return hashlib.sha256(tensor.contiguous().numpy().astype("<f2").tobytes()).hexdigest()
