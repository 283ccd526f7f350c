"""The table of reference losses: per sample, how well the reference model tells its pair from a fixed pool of negatives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from drrho_clip.data.manifest import Manifest, Shard
from drrho_clip.data.order import draw
from drrho_clip.observe import progress
from drrho_clip.reference.features import FeatureFiles, gather
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from torch import Tensor

    from drrho_clip.storage import Store

POOL_SPLIT = "train"
ROWS = 4096  # samples whose similarities with the pool are in memory at once

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("key", pa.string()),
        ("split", pa.string()),
        ("similarity", pa.float32()),
        ("image_loss", pa.float32()),
        ("text_loss", pa.float32()),
    ]
)


def contrastive_losses(features: Tensor, index: Tensor, pool: Tensor, pool_index: Tensor, scale: float) -> Tensor:
    """Similarity and contrastive losses of n pairs against a pool of m pairs: float32 [n, 3] (similarity, image, text).

    `features` [n, 2, dim] and `pool` [m, 2, dim] (image, text), unit norm; `index` [n] and `pool_index` [m] say which samples
    they are: a sample is no negative of itself. The image-side loss is the cross-entropy of the pair's own text among it and
    the pool's texts, at logit scale `scale` (Radford et al., arXiv 2103.00020, with a fixed pool in the place of the batch); the
    text side has the roles swapped.
    """
    features, pool = features.float(), pool.float()
    own = (features[:, 0] * features[:, 1]).sum(dim=-1, keepdim=True)
    itself = index[:, None] == pool_index[None, :]
    columns = [own]
    for side in (0, 1):
        negatives = (features[:, side] @ pool[:, 1 - side].T).masked_fill(itself, -torch.inf)
        logits = scale * torch.cat([own, negatives], dim=1)
        columns.append(torch.logsumexp(logits, dim=1, keepdim=True) - scale * own)
    return torch.cat(columns, dim=1)


def draw_pool(manifest: Manifest, size: int, seed: int) -> list[int]:
    """Return the sorted indices of the pool: `size` training samples at most (of any split where there is no training split)."""
    shards = [shard for shard in manifest.shards if shard.split == POOL_SPLIT] or manifest.shards
    chosen: list[int] = draw(shards, size, seed).tolist()
    return chosen


def write_losses(store: Store, files: FeatureFiles, manifest: Manifest, *, pool: int, seed: int) -> None:
    """Write losses.parquet for all samples, in the order of their index; one shard in memory at a time."""
    indices = draw_pool(manifest, pool, seed)
    pool_features, _ = gather(files, manifest, indices)
    pool_index = torch.tensor(indices)
    metadata = {
        "dataset_id": manifest.id,
        "identity": files.identity.model_dump_json(),
        "pool": str(len(indices)),
        "seed": str(seed),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.parquet"
        with pq.ParquetWriter(path, SCHEMA.with_metadata(metadata)) as writer:
            for shard in progress(manifest.shards, what="reference losses", total=len(manifest.shards), unit="shards"):
                features, keys = files.read(shard)
                losses = _shard_losses(shard, features, pool_features, pool_index, files.identity.logit_scale)
                writer.write_table(_table(shard, keys, losses))
        store.upload(layout.reference_losses(files.dataset, files.reference_id), path)


def _shard_losses(shard: Shard, features: Tensor, pool: Tensor, pool_index: Tensor, scale: float) -> Tensor:
    index = torch.arange(shard.base, shard.base + shard.count)
    starts = range(0, shard.count, ROWS)
    return torch.cat([contrastive_losses(features[i : i + ROWS], index[i : i + ROWS], pool, pool_index, scale) for i in starts])


def _table(shard: Shard, keys: list[str], losses: Tensor) -> Any:
    similarity, image_loss, text_loss = losses.numpy().T
    columns = [
        np.arange(shard.base, shard.base + shard.count),
        keys,
        [shard.split] * shard.count,
        similarity,
        image_loss,
        text_loss,
    ]
    return pa.Table.from_arrays(
        [pa.array(column, type=kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
