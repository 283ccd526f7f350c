"""A dataset version and its references, byte by byte and sample by sample."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from drrho_clip.data.images import BadImage, decode_image
from drrho_clip.data.manifest import Manifest, Shard, load_manifest
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.data.reference_manifest import check_reference, list_references, load_reference_manifest
from drrho_clip.observe import progress
from drrho_clip.reference.features import FeatureFiles
from drrho_clip.storage import layout
from drrho_clip.storage.places import Places
from drrho_clip.verification.findings import Verified, sha256_of

if TYPE_CHECKING:
    from drrho_clip.storage import Store

T = TypeVar("T")

UNIT_TOLERANCE = 2e-3
"""How far the norm of a feature vector may lie from 1: rounding to fp16 (2**-11 an entry) and some room."""


def verify_dataset(store: Store, dataset: str, version: int | None = None) -> Verified:
    """Read every shard, sample and reference feature of a dataset version (None = the newest).

    DataError where there is no such version or its manifest cannot be read; all else that is wrong is in the result.
    """
    manifest = load_manifest(store, dataset, version)
    found = Verified()
    found.counts.update(versions=1, shards=len(manifest.shards))
    _versions_agree(store, manifest, found)
    tars: dict[str, list[Shard]] = {}
    for shard in manifest.shards:
        tars.setdefault(shard.location, []).append(shard)
    _read_all(partial(_tar, Places(store), manifest), list(tars.values()), found, f"shards of {dataset}")
    for name in list_references(store, dataset):
        _reference(store, manifest, name, found)
    return found


def _versions_agree(store: Store, manifest: Manifest, found: Verified) -> None:
    """Each earlier version is there and holds a beginning of this one's shards: indices are stable."""
    for number in range(1, manifest.version + 1):
        key = layout.dataset_manifest(manifest.name, number)
        with found.looking_at(key):
            earlier = load_manifest(store, manifest.name, number)
            if earlier.shards != manifest.shards[: len(earlier.shards)]:
                found.problems.append(f"{key}: its shards are not the first of version {manifest.version}")


def _tar(places: Places, manifest: Manifest, shards: Sequence[Shard]) -> Verified:
    """Read a tar and the samples of its shards: one, or several where it is adopted."""
    found = Verified()
    pinned = shards[0]
    with found.looking_at(pinned.location):
        store, key = places.find(pinned.location)
        sha256, size = sha256_of(store, key, etag=pinned.etag)
        found.counts["bytes"] += size
        for shard in shards:
            if (sha256, size) != (shard.sha256, shard.bytes):
                found.problems.append(f"{shard.location}: its {size:,} bytes are not those that the manifest names")
                return found
        for shard in shards:
            with found.looking_at(shard.key):
                for sample in SampleReader(places.store, manifest, cache_bytes=0, places=places).shard(shard):
                    _sample(shard, sample, found)
    return found


def _sample(shard: Shard, sample: Sample, found: Verified) -> None:
    found.counts["samples"] += 1
    where = f"{shard.key}: sample {sample.index}"
    try:
        decode_image(sample.image)
    except BadImage as error:
        found.problems.append(f"{where}: its image cannot be used: {error.detail}")
    if sample.meta.get("sha256", "") not in ("", hashlib.sha256(sample.image).hexdigest()):
        found.problems.append(f"{where}: its image is not the one that its metadata names")
    if not sample.caption.strip():
        found.problems.append(f"{where}: it has no caption")


def _reference(store: Store, manifest: Manifest, name: str, found: Verified) -> None:
    key = layout.reference_manifest(manifest.name, name)
    with found.looking_at(key):
        reference = load_reference_manifest(store, manifest.name, name)
        if reference.dataset_version < manifest.version:
            found.notes.append(f"{key}: it is of version {reference.dataset_version}, `drrho reference` adds what is new")
        else:
            check_reference(reference, manifest, name)
        found.counts["references"] += 1
        files = FeatureFiles(store, manifest.name, name, reference.identity)
        hashes = {shard.key: shard.features_sha256 for shard in reference.shards}
        shards = [shard for shard in manifest.shards if shard.key in hashes]
        _read_all(partial(_features, files, hashes), shards, found, f"features of {name}")


def _features(files: FeatureFiles, hashes: Mapping[str, str], shard: Shard) -> Verified:
    found = Verified()
    key = files.key(shard)
    with found.looking_at(key):
        features, _ = files.read(shard)
        found.counts["features"] += len(features)
        record = files.find(shard)
        if record is None or record.features_sha256 != hashes[shard.key]:
            found.problems.append(f"{key}: it is not the file that the manifest names")
        elif not bool(((features.float().norm(dim=-1) - 1).abs() < UNIT_TOLERANCE).all()):  # also where one is not finite
            found.problems.append(f"{key}: a feature vector is not of unit norm")
    return found


def _read_all(read: Callable[[T], Verified], shards: Sequence[T], found: Verified, what: str) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for one in progress(pool.map(read, shards), what=f"verify {what}", total=len(shards), unit="shard"):
            found.add(one)
