"""The work of the step `reference`: encode the shards that are missing, then losses and manifest."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

from drrho_clip.data.manifest import Manifest, Shard
from drrho_clip.data.pairs import image_and_caption
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.data.reference_manifest import ReferenceIdentity, ReferenceManifest, ReferenceShard, load_reference_manifest
from drrho_clip.errors import DataError, ObjectChanged
from drrho_clip.models import Encoder, encode_pairs, load_model, refuse_mix
from drrho_clip.observe import get_logger, progress
from drrho_clip.reference.config import ReferenceConfig
from drrho_clip.reference.features import FeatureFiles, gather
from drrho_clip.reference.losses import write_losses
from drrho_clip.reference.step import Published, covers
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

SPOT_CHECKS = 16
LEAST_COSINE = (
    0.99  # fp16 features of the same picture differ by 1e-3 between devices and batch sizes, other pictures' by far more
)


def compute(config: ReferenceConfig, store: Store, manifest: Manifest, published: Published | None) -> ReferenceManifest:
    """Encode this worker's shards; where then all are done, check a few, write the losses and publish."""
    encoder = load_model(config.model, store, precision=config.precision)
    identity = ReferenceIdentity.parse(encoder.record())
    if published is not None:
        what = f"Reference '{config.reference_id}' of dataset '{config.dataset}'"
        refuse_mix(published.reference.identity, identity, what=what, fix="Give this one another name.")
        if covers(published.reference, manifest, config, store):
            return published.reference
    files = FeatureFiles(store, config.dataset, config.reference_id, identity)
    reader = SampleReader(store, manifest)
    done = files.finished(manifest.shards)
    todo = [shard for shard in in_order(config, manifest.shards) if shard.key not in done]
    encode_shards(config, encoder, reader, files, todo)
    done = files.finished(manifest.shards)
    reference = describe(manifest, identity, [done[shard.key] for shard in manifest.shards if shard.key in done])
    if len(done) < len(manifest.shards):
        get_logger().info("reference_waits", reference=config.reference_id, shards=len(manifest.shards), done=len(done))
        return reference
    spot_check(encoder, reader, files, manifest, config.seed)
    write_losses(store, files, manifest, pool=config.pool, seed=config.seed)
    return publish(config, store, reference, published)


def in_order(config: ReferenceConfig, shards: Sequence[Shard]) -> list[Shard]:
    """This worker's share of the shards; worker 0 has the others' behind its own, from the end, where they come to last."""
    own = list(shards[config.worker :: config.workers])
    if config.worker:
        return own
    return own + [shard for number, shard in enumerate(shards) if number % config.workers][::-1]


def encode_shards(
    config: ReferenceConfig, encoder: Encoder, reader: SampleReader, files: FeatureFiles, shards: Sequence[Shard]
) -> None:
    """Compute and write the features of `shards`, one after the other, less those that another worker has done by then."""
    missing = (shard for shard in shards if config.workers == 1 or files.find(shard) is None)
    samples = progress(
        reader.in_order(missing), what="reference features", total=sum(shard.count for shard in shards), unit="samples"
    )
    for shard, group in groupby(samples, key=itemgetter(0)):
        keys: list[str] = []
        features = encode_pairs(
            encoder,
            _note_keys((sample for _, sample in group), keys),
            image_and_caption,
            batch_size=config.batch_size,
            threads=config.decode_threads,
        )
        files.write(shard, torch.cat(list(features)).half(), keys)


def _note_keys(samples: Iterable[Sample], keys: list[str]) -> Iterator[Sample]:
    for sample in samples:
        keys.append(str(sample.meta["key"]))
        yield sample


def spot_check(encoder: Encoder, reader: SampleReader, files: FeatureFiles, manifest: Manifest, seed: int) -> None:
    """Recompute a few features, drawn by `seed`; DataError where those in the store belong to other samples."""
    chosen = sorted(random.Random(seed).sample(range(manifest.total), min(SPOT_CHECKS, manifest.total)))
    samples = [reader.get(index) for index in chosen]
    fresh = torch.cat(list(encode_pairs(encoder, samples, image_and_caption, batch_size=SPOT_CHECKS, threads=1)))
    stored, keys = gather(files, manifest, chosen)
    cosines = (fresh * stored.float()).sum(dim=-1)  # [n, 2]
    for sample, key, cosine in zip(samples, keys, cosines.amin(dim=1).tolist(), strict=True):
        if key != sample.meta["key"] or not cosine >= LEAST_COSINE:
            raise DataError(
                f"The features stored for sample {sample.index} ('{sample.meta['key']}') are not its own: they carry the key "
                f"'{key}' and have a cosine of {cosine:.3f} with those computed now",
                where=files.store.uri_of(layout.reference(files.dataset, files.reference_id)),
                fix="Delete that folder, or compute the reference under another name.",
            )


def describe(manifest: Manifest, identity: ReferenceIdentity, shards: Sequence[ReferenceShard]) -> ReferenceManifest:
    """Return the manifest of features of `shards`, not yet published."""
    return ReferenceManifest(
        dataset=manifest.name,
        dataset_id=manifest.id,
        dataset_version=manifest.version,
        shards=tuple(shards),
        identity=identity,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def publish(
    config: ReferenceConfig, store: Store, reference: ReferenceManifest, published: Published | None
) -> ReferenceManifest:
    """Write the manifest, over the one that was found at the start or where there was none; of two workers one wins."""
    key = layout.reference_manifest(config.dataset, config.reference_id)
    data = (reference.model_dump_json(indent=1) + "\n").encode()
    try:
        store.write(key, data, if_absent=published is None, if_match=published.etag if published else None)
    except ObjectChanged:  # another worker was faster, with the same features
        return load_reference_manifest(store, config.dataset, config.reference_id)
    get_logger().info("reference_published", dataset=config.dataset, reference=config.reference_id, shards=len(reference.shards))
    return reference
