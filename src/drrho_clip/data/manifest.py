"""The manifest of a dataset: its shards, splits, classes and origin; written last, one immutable version after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from drrho_clip.errors import DataError, ObjectChanged, ObjectMissing, nearest
from drrho_clip.schema import Config
from drrho_clip.storage import layout
from drrho_clip.storage.places import Places

if TYPE_CHECKING:
    from drrho_clip.storage import Store

SPLITS = ("train", "validation", "heldout")
CHECKED_AT_ONCE = 16
REPAIR = "Restore the object from a backup, or ingest the data again under a new dataset name."


class Adopted(Config):
    """A tar of somebody else's that stays where it is: its place (see `Places`), and the index that says what of it is used."""

    location: str
    index_sha256: str


class Shard(Config):
    """One tar of samples; its samples have the indices base .. base + count - 1 and belong to one split.

    Where it is adopted there is no object `key`, only an index and keys beside it; several shards can be of one tar.
    """

    key: str
    etag: str
    sha256: str
    bytes: int = Field(ge=0)
    count: int = Field(ge=1)
    base: int = Field(ge=0)
    split: str
    adopted: Adopted | None = None

    @property
    def location(self) -> str:
        """Where the tar lies, see `Places`."""
        return self.adopted.location if self.adopted else self.key


class Failure(Config):
    """How many rows gave no sample for one reason, and the first of them as "key: detail"."""

    count: int
    examples: tuple[str, ...] = ()


class UidList(Config):
    """The list of uids that chose the samples: sha256 over its files' sha256s, its length, and how many the source has."""

    sha256: str
    listed: int
    found: int


class Manifest(Config):
    """One version of a dataset. Sample indices are stable: later versions only append shards."""

    name: str
    version: int = Field(ge=1)
    id: str = Field(description="sha256 over the shards' sha256s, see `dataset_id`")
    shards: tuple[Shard, ...]
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    source: dict[str, Any] = Field(default_factory=dict, description="The settings that made it")
    failed: dict[str, Failure] = Field(default_factory=dict, description="Rows without a sample, by reason")
    converted: dict[str, int] = Field(
        default_factory=dict, description="Images that were neither RGB nor 8-bit grey, by original mode"
    )
    exchanged: int = Field(0, ge=0, description="Samples whose caption is another sample's (caption noise)")
    duplicates: dict[str, int] = Field(
        default_factory=dict, description="Downloaded samples that repeat an earlier one, by content or by look"
    )
    uids: UidList | None = None
    notice: str = Field("", description="Credit and licence of the pictures; shown wherever they are shown")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        base = 0
        for shard in self.shards:
            if shard.base != base:
                raise ValueError(f"shard {shard.key} has base {shard.base}, but {base} samples lie before it")
            base += shard.count
        if self.id != dataset_id(self.shards):
            raise ValueError("the id does not belong to these shards")
        return self

    @property
    def total(self) -> int:
        """Number of samples of all splits: the length of u."""
        return sum(shard.count for shard in self.shards)

    @property
    def splits(self) -> dict[str, int]:
        """Samples per split, in the order train, validation, heldout, then any other."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.count
        order = [split for split in SPLITS if split in counts] + sorted(set(counts) - set(SPLITS))
        return {split: counts[split] for split in order}

    def split(self, name: str) -> tuple[Shard, ...]:
        """Return the shards of one split; raise DataError with the splits there are."""
        found = tuple(shard for shard in self.shards if shard.split == name)
        if not found:
            there = ", ".join(f"{split} ({count} samples)" for split, count in self.splits.items())
            raise DataError(f"Dataset '{self.name}' has no split '{name}'", fix=f"It has: {there}.")
        return found

    def check(self, store: Store) -> None:
        """Compare every shard with the store, without reading it; raise DataError that names what is gone or altered."""
        places = Places(store)
        with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
            problems = [found for found in pool.map(partial(shard_problem, places), self.shards) if found]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise DataError(
                f"{len(problems)} of {len(self.shards)} shards of dataset '{self.name}' version {self.version} cannot be used: "
                + "; ".join(problems[:5])
                + more,
                where=store.uri_of(layout.dataset(self.name)),
                fix=REPAIR,
            )


def shard_problem(places: Places, shard: Shard) -> str | None:
    """Say what is wrong with a shard where it lies, by its size and ETag; None where nothing is."""
    store, key = places.find(shard.location)
    found = store.head(key)
    if found is None:
        return f"{shard.location} is gone"
    if found.size != shard.bytes:
        return f"{shard.location} has {found.size} bytes instead of {shard.bytes}"
    if found.etag != shard.etag:
        return f"{shard.location} was altered (etag {found.etag} instead of {shard.etag})"
    return None


def dataset_id(shards: Iterable[Shard]) -> str:
    """sha256 over the shards' sha256s (and their indexes' where adopted) in order: what references and runs are pinned to."""
    hashes = (shard.sha256 + (shard.adopted.index_sha256 if shard.adopted else "") for shard in shards)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def load_manifest(store: Store, dataset: str, version: int | None = None) -> Manifest:
    """Read the newest manifest of a dataset or one version; raise DataError that says what is there instead."""
    found = find_manifest(store, dataset, version)
    if found is not None:
        return found
    if version is not None and (newest := find_manifest(store, dataset)) is not None:
        raise DataError(
            f"Dataset '{dataset}' has no version {version}",
            where=store.uri_of(layout.dataset(dataset)),
            fix=f"Its versions are 1 to {newest.version}; leave the version out for the newest.",
        )
    known = list_datasets(store)
    hint = nearest(dataset, known) if known else "There is no dataset at all."
    raise DataError(
        f"There is no dataset '{dataset}'", where=store.uri, fix=hint + " `drrho ingest` makes one; is the store the right one?"
    )


def find_manifest(store: Store, dataset: str, version: int | None = None) -> Manifest | None:
    """Read a manifest, or return None where there is none; raise DataError where it cannot be understood."""
    key = layout.dataset_manifest(dataset, version)
    try:
        data = store.read(key)
    except ObjectMissing:
        return None
    return parse_manifest(data, store.uri_of(key))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Validate the JSON of a manifest; raise DataError."""
    try:
        return Manifest.model_validate_json(data)
    except ValueError as error:
        lines = str(error).splitlines()
        raise DataError(
            "The manifest cannot be read: " + " ".join(line.strip() for line in lines[1:3] or lines),
            where=where,
            fix="Copy the newest file of versions/ beside it over it, or ingest again under a new name.",
        ) from None


def list_datasets(store: Store) -> list[str]:
    """Names of the datasets that have a manifest."""
    keys = (info.key for info in store.list("datasets/"))
    return sorted(key.split("/")[1] for key in keys if key.count("/") == 2 and key.endswith("/manifest.json"))


def publish(store: Store, manifest: Manifest) -> Manifest:
    """Write the immutable version file, then manifest.json, each conditionally; the first of two writers wins.

    A crash between the two leaves readers on the previous version until `newest_manifest` is called. Raises DataError where
    another writer has published something else as this version.
    """
    data = (manifest.model_dump_json(indent=1, exclude_none=True) + "\n").encode()  # as it was before tars could be adopted
    version_key = layout.dataset_manifest(manifest.name, manifest.version)
    try:
        store.write(version_key, data, if_absent=True)
    except ObjectChanged:
        if store.read(version_key) != data:
            raise DataError(
                f"Another ingest has published version {manifest.version} of dataset '{manifest.name}' meanwhile",
                where=store.uri_of(version_key),
                fix="Run this ingest again: it adds to that version what it lacks.",
            ) from None
    _point_to(store, manifest, data)
    return manifest


def newest_manifest(store: Store, dataset: str) -> Manifest | None:
    """Find the newest manifest; first finish what a writer that died between the two writes of `publish` began."""
    manifest = find_manifest(store, dataset)
    while successor := find_manifest(store, dataset, manifest.version + 1 if manifest else 1):
        manifest = successor
        _point_to(store, manifest, store.read(layout.dataset_manifest(dataset, manifest.version)))
    return manifest


def _point_to(store: Store, manifest: Manifest, data: bytes) -> None:
    key = layout.dataset_manifest(manifest.name)
    try:
        info = store.head(key)
        if info is None:
            store.write(key, data, if_absent=True)
            return
        newest = parse_manifest(store.read(key, etag=info.etag), store.uri_of(key))
        if newest.version < manifest.version:
            store.write(key, data, if_match=info.etag)
    except ObjectChanged:
        _point_to(store, manifest, data)  # somebody moved it in between: look again, it only ever moves forward
