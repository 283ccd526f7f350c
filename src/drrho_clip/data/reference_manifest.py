"""What a reference's features belong to: the dataset version they were computed for and the model that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from drrho_clip.data.manifest import Manifest
from drrho_clip.errors import DataError, ObjectMissing
from drrho_clip.schema import Config
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store


class ReferenceIdentity(Config):
    """The model behind the features, compared wherever a mix would go unnoticed."""

    spec: str
    architecture: str
    weights_sha256: str
    activation: str
    preprocessing: str
    precision: str
    dim: int = Field(ge=1)
    logit_scale: float = Field(gt=0, description="Multiplies cosine similarities: 1 / temperature")


class ReferenceShard(Config):
    """Features of one shard: which bytes they were computed from, and which bytes they are."""

    key: str = Field(description="Key of the shard's tar")
    etag: str = Field(description="ETag of that tar")
    features_key: str
    features_sha256: str
    count: int = Field(ge=1)


class ReferenceManifest(Config):
    """One reference of one dataset version; written last by the step `reference`."""

    dataset: str
    dataset_id: str
    dataset_version: int = Field(ge=1)
    shards: tuple[ReferenceShard, ...]
    identity: ReferenceIdentity
    created: str = Field(description="UTC, ISO 8601")


def load_reference_manifest(store: Store, dataset: str, reference_id: str) -> ReferenceManifest:
    """Read the manifest of a reference; raise DataError that names the references there are."""
    key = layout.reference_manifest(dataset, reference_id)
    try:
        data = store.read(key)
    except ObjectMissing:
        known = list_references(store, dataset)
        there = f"There is: {', '.join(known)}. " if known else ""
        raise DataError(
            f"Dataset '{dataset}' has no finished reference '{reference_id}'",
            where=store.uri_of(key),
            fix=there + "Run `drrho reference` to compute one.",
        ) from None
    try:
        return ReferenceManifest.model_validate_json(data)
    except ValueError as error:
        raise DataError(
            f"The manifest of reference '{reference_id}' cannot be read: {str(error).splitlines()[-1].strip()}",
            where=store.uri_of(key),
            fix="Delete it and run `drrho reference` again; finished shards are found.",
        ) from None


def list_references(store: Store, dataset: str) -> list[str]:
    """Names of the finished references of a dataset."""
    prefix = f"{layout.dataset(dataset)}/reference/"
    keys = (info.key.removeprefix(prefix) for info in store.list(prefix))
    return sorted(key.split("/")[0] for key in keys if key.count("/") == 1 and key.endswith("/manifest.json"))


def check_reference(reference: ReferenceManifest, manifest: Manifest, reference_id: str) -> None:
    """Raise DataError unless the features were computed from exactly these shards (more of them is fine, fewer is not)."""
    etags = {shard.key: shard.etag for shard in reference.shards}
    altered = [shard.key for shard in manifest.shards if etags.get(shard.key, shard.etag) != shard.etag]
    missing = [shard.key for shard in manifest.shards if shard.key not in etags]
    strangers = not any(shard.key in etags for shard in manifest.shards)
    if reference.dataset != manifest.name or altered or strangers:
        raise DataError(
            f"Reference features belong to another dataset version: '{reference_id}' was computed for '{reference.dataset}' "
            f"version {reference.dataset_version}, id {reference.dataset_id}, not for '{manifest.name}' "
            f"version {manifest.version}, id {manifest.id}",
            where=f"shard {altered[0]} differs" if altered else "",
            fix="Run `drrho reference` for this dataset under a new name.",
        )
    if missing:
        raise DataError(
            f"Reference '{reference_id}' lacks {len(missing)} of {len(manifest.shards)} shards of dataset '{manifest.name}' "
            f"version {manifest.version}: {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}",
            fix="Run `drrho reference` again: it adds only what is missing.",
        )
