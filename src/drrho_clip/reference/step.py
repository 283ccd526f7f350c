"""Find the reference of a dataset, or compute what is missing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.reference_manifest import ReferenceManifest, check_reference, load_reference_manifest
from drrho_clip.observe import get_logger
from drrho_clip.reference.config import ReferenceConfig
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store


@dataclass(frozen=True)
class Published:
    """A reference's manifest as it stands in the store, and the version of that object."""

    reference: ReferenceManifest
    etag: str


def compute_reference(config: ReferenceConfig, store: Store) -> ReferenceManifest:
    """Compute the features and losses of the newest version of a dataset, all splits; find what is done, publish last.

    Several workers share the shards, and worker 0 goes on with what the others have not done. One that does not find all of
    them done in the end publishes nothing and returns a manifest of those that are. Features of a shard are kept while shard
    and model are the same; a dataset that has grown gets the features it lacks, and losses against a pool from all of it.
    Raises ModelError where the name belongs to another model, DataError where it belongs to other shards.
    """
    manifest = load_manifest(store, config.dataset)
    published = find_published(config, store)
    if published is not None and _asked_for(published.reference, config) and covers(published.reference, manifest, config, store):
        get_logger().info("reference_found", dataset=config.dataset, reference=config.reference_id, version=manifest.version)
        return published.reference
    from drrho_clip.reference.work import compute

    return compute(config, store, manifest, published)


def other_workers(config: ReferenceConfig, store: Store) -> list[int]:
    """Return the numbers of the workers that are started beside worker 0: at least one, and no more than find a shard."""
    shards = len(load_manifest(store, config.dataset).shards)
    workers = max(2, min(config.workers, shards))
    get_logger().info("reference_shared", dataset=config.dataset, workers=workers, shards=shards)
    return list(range(1, workers))


def find_published(config: ReferenceConfig, store: Store) -> Published | None:
    """Return the published manifest of this name, if there is one."""
    info = store.head(layout.reference_manifest(config.dataset, config.reference_id))
    if info is None:
        return None
    return Published(load_reference_manifest(store, config.dataset, config.reference_id), info.etag)


def covers(reference: ReferenceManifest, manifest: Manifest, config: ReferenceConfig, store: Store) -> bool:
    """Whether the features of every shard and the losses are there; DataError where they belong to other shards."""
    known = {shard.key: shard for shard in reference.shards}
    shards = tuple(shard for shard in manifest.shards if shard.key in known)
    check_reference(reference, manifest.model_copy(update={"shards": shards}), config.reference_id)
    sizes = {info.key: info.size for info in store.list(layout.reference(config.dataset, config.reference_id) + "/")}
    least = 4 * reference.identity.dim
    return (
        len(shards) == len(manifest.shards)
        and all(sizes.get(known[shard.key].features_key, 0) >= least * shard.count for shard in shards)
        and layout.reference_losses(config.dataset, config.reference_id) in sizes
    )


def _asked_for(reference: ReferenceManifest, config: ReferenceConfig) -> bool:
    """Whether the user means the same model by name; only loading it can tell whether another name means it too."""
    return (reference.identity.spec, reference.identity.precision) == (config.model, config.precision)
