"""One process of a run: puts the parts together, trains and, as rank 0, publishes the export, the weights and the summary."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from drrho_clip import distributed
from drrho_clip.data.augment import ImageBatcher
from drrho_clip.data.features import FeatureReader
from drrho_clip.data.loader import BatchMaker, sample_cache
from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.order import SampleOrder
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.writer import read_keys
from drrho_clip.method.weights import SampleWeights
from drrho_clip.models import architecture_info, create_model, save_export, tokenizer
from drrho_clip.observe import MetricSet, get_logger, metrics_of
from drrho_clip.observe.memory import memory_limit
from drrho_clip.storage import Store, layout
from drrho_clip.storage.blocks import BLOCK_BYTES, Blocks
from drrho_clip.storage.cached import CachedStore
from drrho_clip.storage.lease import KeptLease
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.training.config import TrainConfig
from drrho_clip.training.heartbeat import LauncherWatch
from drrho_clip.training.history import History
from drrho_clip.training.ownership import take_run, this_process
from drrho_clip.training.step import sample_order
from drrho_clip.training.summary import TrainSummary
from drrho_clip.training.trainer import Trainer

WEIGHTS = pa.schema(
    [
        ("index", pa.int64()),
        ("key", pa.string()),
        ("image_weight", pa.float32()),
        ("text_weight", pa.float32()),
        ("loss", pa.float32()),
    ]
)


def work(config: TrainConfig, dataset_version: int, store: Store, watch: LauncherWatch | None = None, holder: str = "") -> None:
    """Train (or go on training) as one of the processes of the group; finished training only publishes what is missing.

    With a `watch`, training stops after a checkpoint when the launcher is lost. Rank 0 has the run's lease as `holder`, by
    default as this very process; TrainingError where somebody else trains the run, LeaseLost where another took it for dead.
    """
    with ExitStack() as stack:
        owner = None
        if distributed.rank() == 0:
            owner = stack.enter_context(take_run(store, config.run, holder or this_process()))
            owner.finished()
        distributed.barrier()  # nobody reads checkpoints that another run still writes
        _work(config, dataset_version, store, watch, owner)


def _work(config: TrainConfig, dataset_version: int, store: Store, watch: LauncherWatch | None, owner: KeptLease | None) -> None:
    manifest = load_manifest(store, config.dataset, dataset_version)
    make = batch_maker(config, manifest, store)
    torch.manual_seed(config.seed)
    model = create_model(config.architecture)
    if config.gradient_checkpointing == "yes":
        cast(Any, model).set_grad_checkpointing()
    epochs = math.ceil(config.steps / make.order.steps_per_epoch)
    reference_temperature = 1 / make.features.reference.identity.logit_scale if make.features else 1.0
    objective = config.objective().build(manifest.total, epochs, reference_temperature)
    kinds = ("run", "rank") if distributed.rank() == 0 else ("rank",)
    metrics = MetricSet(metrics_of(*kinds, ranks=distributed.node_ranks()))
    if config.metrics_port and distributed.leads_node():
        metrics.serve(config.metrics_port)
    history = History(store, config.run, metrics)
    checkpoints = Checkpoints(store, config.run, config.keep_checkpoints, config.keep_checkpoint_every)
    trainer = Trainer(config, model, objective, make, history, checkpoints, watch, owner)
    try:
        trainer.run()
    finally:
        if distributed.rank() == 0:
            history.close()
    if owner is not None:
        owner.check()
    distributed.first_alone(partial(publish, trainer, manifest, store))  # of a large dataset it takes longer than a step may


def batch_maker(config: TrainConfig, manifest: Manifest, store: Store) -> BatchMaker:
    """The batches of a run for this rank."""
    info = architecture_info(config.architecture)
    order = sample_order(config, manifest)
    store = _cached(config, manifest, order, store)
    return BatchMaker(
        reader=SampleReader(store, manifest, sample_cache(config.workers, len(distributed.node_ranks()), memory_limit())),
        order=order,
        features=FeatureReader(store, config.dataset, config.reference, manifest) if config.reference else None,
        images=ImageBatcher(info.image_size, info.mean, config.augmentation, config.seed),
        tokenize=tokenizer(config.architecture),
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def _cached(config: TrainConfig, manifest: Manifest, order: SampleOrder, store: Store) -> Store:
    """The store with the node's cache, if one is wanted and holds the chunks that a step draws its samples from.

    In a smaller one each block would be gone before its next sample is wanted, and be fetched whole again for it.
    """
    if not config.cache_path:
        return store
    limit = config.cache_gib * 2**30
    chunks, samples = order.open_chunks
    whole = sum(shard.bytes for shard in manifest.shards)
    share = len(distributed.node_ranks()) / distributed.world_size()
    needed = min(whole, int(share * chunks * (samples * whole / manifest.total + BLOCK_BYTES)))
    if needed > limit:
        get_logger().warning("cache_too_small", path=config.cache_path, gib=config.cache_gib, needed_gib=-(-needed // 2**30))
        return store
    return CachedStore(store, Blocks(Path(config.cache_path), limit))


def publish(trainer: Trainer, manifest: Manifest, store: Store) -> None:
    """Write the export, weights.parquet and, last, summary.json."""
    config, history = trainer.config, trainer.history
    with torch.no_grad():  # open_clip keeps the scale in the model; there it belongs in an export
        cast(nn.Parameter, trainer.model.logit_scale).fill_(-math.log(trainer.objective.temperature.item()))
    save_export(trainer.model, config.architecture, store, layout.export(config.run))
    if trainer.weights is not None:
        with tempfile.TemporaryDirectory(prefix="drrho-weights-") as folder:
            path = Path(folder) / "weights.parquet"
            _write_weights(trainer.weights, manifest, store, path)
            store.upload(layout.run_weights(config.run), path)
    averaged = {
        key: value for key in history.records[-1] if key not in ("time", "step") and (value := history.last(key)) is not None
    }
    summary = TrainSummary(
        run=config.run,
        method=config.method,
        architecture=config.architecture,
        dataset=config.dataset,
        dataset_id=manifest.id,
        dataset_version=manifest.version,
        reference=config.reference,
        steps=config.steps,
        samples_seen=config.steps * config.batch_size,
        samples_skipped=trainer.skipped,
        seconds=trainer.seconds,
        samples_per_second=config.steps * config.batch_size / max(trainer.seconds, 1e-9),
        temperature=trainer.objective.temperature.item(),
        world_size=distributed.world_size(),
        device=trainer.device.type,
        versions={name: version(name) for name in ("drrho-clip", "torch", "open_clip_torch")},
        final=averaged | trainer.variances.final(),
    )
    store.write(layout.run_summary(config.run), summary.model_dump_json(indent=1).encode(), if_absent=True)


def _write_weights(weights: SampleWeights, manifest: Manifest, store: Store, path: Path) -> None:
    """Write the table of the visited samples, a row group for each shard that has some: one shard in memory at a time."""
    with pq.ParquetWriter(path, WEIGHTS) as writer:
        for shard in manifest.shards:
            index, weight, loss = (values.numpy() for values in weights.visited(shard.base, shard.base + shard.count))
            if not len(index):
                continue
            keys = read_keys(store, manifest, shard)
            columns = [index, [keys[i - shard.base] for i in index], weight[:, 0], weight[:, 1], loss]
            writer.write_table(pa.table(columns, schema=WEIGHTS))
