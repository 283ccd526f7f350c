from __future__ import annotations

import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
from ingest_helpers import manifest_of, plan
from safetensors.numpy import save

from drrho_clip.data import features as features_module
from drrho_clip.data.features import FeatureReader
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.reference_manifest import ReferenceIdentity, ReferenceManifest, ReferenceShard
from drrho_clip.errors import DataError
from drrho_clip.storage import Store, layout

DIM = 6
IDENTITY = ReferenceIdentity(
    spec="run:r",
    architecture="drrho-tiny",
    weights_sha256="0",
    activation="gelu",
    preprocessing="p",
    precision="fp32",
    dim=DIM,
    logit_scale=100,
)


def feature_rows(base: int, count: int) -> np.ndarray:
    """Rows that say which sample they belong to: [count, 2, DIM] float16."""
    index = np.arange(base, base + count)[:, None, None]
    return np.broadcast_to(index + np.array([[[0.0]], [[0.5]]]).reshape(1, 2, 1), (count, 2, DIM)).astype(np.float16)


def publish_reference(store: Store, manifest: Manifest, **changed: Any) -> ReferenceManifest:
    shards = []
    for shard in manifest.shards:
        data = save(
            {"features": np.ascontiguousarray(feature_rows(shard.base, shard.count))}, metadata={"shard_etag": shard.etag}
        )
        key = layout.reference_features(manifest.name, "ref", shard.key)
        store.write(key, data)
        shards.append(
            ReferenceShard(
                key=shard.key,
                etag=shard.etag,
                features_key=key,
                features_sha256=hashlib.sha256(data).hexdigest(),
                count=shard.count,
            )
        )
    reference = ReferenceManifest(
        dataset=manifest.name,
        dataset_id=manifest.id,
        dataset_version=manifest.version,
        shards=tuple(shards),
        identity=IDENTITY,
        created="2025-01-01T00:00:00Z",
    ).model_copy(update=changed)
    store.write(layout.reference_manifest(manifest.name, "ref"), reference.model_dump_json().encode())
    return reference


@pytest.fixture
def manifest() -> Manifest:
    return manifest_of(plan([7, 37, 1, 60]))


@pytest.fixture(params=[1024, 8])
def unit_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "UNIT_ROWS", request.param)


def test_features_are_joined_by_index(store: Store, manifest: Manifest, unit_rows: None) -> None:
    publish_reference(store, manifest)
    reader = FeatureReader(store, "pets", "ref", manifest)
    indices = np.random.default_rng(0).permutation(105)[:80]
    indices = np.concatenate([indices, indices[:3]])
    found = reader.get(indices)
    assert tuple(found.shape) == (83, 2, DIM)
    np.testing.assert_array_equal(found.numpy(), feature_rows(0, 105)[indices])
    assert reader.get(np.array([], dtype=np.int64)).shape == (0, 2, DIM)
    with pytest.raises(IndexError, match="of 105"):
        reader.get(np.array([3, 105]))


def test_a_pickled_copy_reads_the_same(folder_store: Store, manifest: Manifest) -> None:
    publish_reference(folder_store, manifest)
    reader = FeatureReader(folder_store, "pets", "ref", manifest)
    reader.get(np.arange(105))
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.get(np.arange(105)).numpy(), feature_rows(0, 105))


def test_a_larger_reference_serves_an_older_version(folder_store: Store) -> None:
    publish_reference(folder_store, manifest_of(plan([7, 9, 11]), version=2))
    reader = FeatureReader(folder_store, "pets", "ref", manifest_of(plan([7, 9])))
    np.testing.assert_array_equal(reader.get(np.arange(16)).numpy(), feature_rows(0, 16))


def altered(manifest: Manifest) -> Manifest:
    shards = [
        *manifest.shards[:2],
        manifest.shards[2].model_copy(update={"etag": "other", "sha256": "other"}),
        manifest.shards[3],
    ]
    return manifest_of(shards)


def renamed_shards(manifest: Manifest) -> Manifest:
    return manifest_of([shard.model_copy(update={"key": f"new-{shard.key}", "sha256": "new"}) for shard in manifest.shards])


def reordered(manifest: Manifest) -> Manifest:
    """The same tars under each other's names, as after a copy by hand."""
    keys = [shard.key for shard in manifest.shards]
    shards = [shard.model_copy(update={"etag": f"of {key}"}) for shard, key in zip(manifest.shards, reversed(keys), strict=True)]
    return manifest_of(shards)


@pytest.mark.parametrize("change", [altered, renamed_shards, reordered])
def test_features_of_another_dataset_version_are_refused(folder_store: Store, manifest: Manifest, change: Any) -> None:
    publish_reference(folder_store, manifest)
    other = change(manifest)
    with pytest.raises(DataError, match="Reference features belong to another dataset version") as caught:
        FeatureReader(folder_store, "pets", "ref", other)
    assert manifest.id in str(caught.value)
    assert other.id in str(caught.value)


def test_missing_shards_are_named(folder_store: Store) -> None:
    publish_reference(folder_store, manifest_of(plan([7, 9])))
    with pytest.raises(DataError, match=r"'ref' lacks 1 of 3 shards.*version 2: 000002\.tar.*Run `drrho reference` again"):
        FeatureReader(folder_store, "pets", "ref", manifest_of(plan([7, 9, 11]), version=2))


def test_a_reference_that_is_not_there_is_answered_with_those_that_are(folder_store: Store, manifest: Manifest) -> None:
    with pytest.raises(DataError, match=r"no finished reference 'ref'.*drrho reference"):
        FeatureReader(folder_store, "pets", "ref", manifest)
    publish_reference(folder_store, manifest)
    with pytest.raises(DataError, match=r"no finished reference 'reff'.*There is: ref"):
        FeatureReader(folder_store, "pets", "reff", manifest)
    folder_store.write(layout.reference_manifest("pets", "ref"), b"{}")
    with pytest.raises(DataError, match="manifest of reference 'ref' cannot be read"):
        FeatureReader(folder_store, "pets", "ref", manifest)


def rows_of_another_size() -> bytes:
    return save({"features": np.zeros((37, 2, DIM + 1), dtype=np.float16)})


def another_type() -> bytes:
    return save({"features": np.zeros((37, 2, DIM), dtype=np.float32)})


def another_name() -> bytes:
    return save({"feature": np.zeros((37, 2, DIM), dtype=np.float16)})


def cut_short() -> bytes:
    return save({"features": np.zeros((37, 2, DIM), dtype=np.float16)})[:-10]


@pytest.mark.parametrize("make", [rows_of_another_size, another_type, another_name, cut_short, lambda: b"", lambda: b"x" * 50])
def test_a_damaged_file_is_named(store: Store, manifest: Manifest, make: Any) -> None:
    reference = publish_reference(store, manifest)
    key = reference.shards[1].features_key
    store.write(key, make())
    reader = FeatureReader(store, "pets", "ref", manifest)
    reader.get(np.arange(7))
    with pytest.raises(DataError, match=f"Features of reference 'ref' cannot be used: it is not the file.*{key}"):
        reader.get(np.arange(10))


def test_a_file_that_is_gone_or_replaced_meanwhile_is_named(store: Store, manifest: Manifest, monkeypatch: Any) -> None:
    monkeypatch.setattr(features_module, "UNIT_ROWS", 8)
    reference = publish_reference(store, manifest)
    reader = FeatureReader(store, "pets", "ref", manifest)
    key = reference.shards[3].features_key
    reader.get(np.array([50]))
    store.write(key, store.read(key)[:-1] + b"\0")
    with pytest.raises(DataError, match="replaced while it was read"):
        reader.get(np.array([100]))
    store.delete(reference.shards[0].features_key)
    with pytest.raises(DataError, match="it is gone"):
        reader.get(np.array([0]))
