"""From shards to batches for training, against open_clip's loader; and reference features, against encoding alone."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.pictures import publish_pictures
from drrho_clip.data.augment import ImageBatcher
from drrho_clip.data.loader import BatchMaker, Kept, batches
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.order import SampleOrder
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.reference_manifest import ReferenceIdentity
from drrho_clip.models import architecture_info, create_model, load_model, normalise, save_export, tokenizer
from drrho_clip.reference import ReferenceConfig
from drrho_clip.reference.features import FeatureFiles
from drrho_clip.reference.work import encode_shards
from drrho_clip.storage import layout
from drrho_clip.storage.s3 import S3Store
from drrho_pipelines.seaweed import SeaweedServer

SAMPLES, SHARD, BATCH, WORKERS, REPEATS = 4096, 256, 64, 2, 3
ARCHITECTURE = "ViT-B-32"
ENCODED, ENCODE_BATCH = 512, 64


def decode_rate() -> dict[str, Any]:
    """Samples per second of both loaders from their first batch on: the start of their workers does not count.

    For pictures that a JPEG decoder can halve, and for smaller ones that it cannot. What this process does has one thread, or
    those that wait for each other would spin on the workers' cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {side: _decoded(side) for side in (512, 256)}
    finally:
        torch.set_num_threads(threads)
    return {
        "ratio": found[512]["ours"] / found[512]["open_clip"],
        "goal": 1.3,
        "compared": f"samples/s over open_clip's stages of webdataset: {WORKERS} workers, JPEGs of 512 pixels to 224, SeaweedFS",
        "ratio_256": found[256]["ours"] / found[256]["open_clip"],
        "samples_per_second": found,
    }


def _decoded(side: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {"ours": [], "open_clip": []}
    with _served(SAMPLES, side) as (store, manifest):
        for _ in range(REPEATS):
            for name, load in (("ours", _ours), ("open_clip", _open_clip)):
                rates[name].append(_rate(load(store, manifest)))
    return {name: statistics.median(values) for name, values in rates.items()}


def _rate(sizes: Iterator[int]) -> float:
    """Samples per second after the first of these batches; RuntimeError unless all of the dataset came."""
    came = next(sizes)
    started, first = time.perf_counter(), came
    came += sum(sizes)
    if came != SAMPLES:
        raise RuntimeError(f"{came} of {SAMPLES} samples")
    return (came - first) / (time.perf_counter() - started)


@contextmanager
def _served(samples: int, side: int) -> Iterator[tuple[S3Store, Manifest]]:
    with tempfile.TemporaryDirectory(prefix="drrho-loading-") as folder, SeaweedServer(Path(folder) / "weed") as server:
        os.environ.update(server.environment)
        store = S3Store(server.bucket)
        yield store, publish_pictures(store, Path(folder), samples=samples, side=side, shard_samples=SHARD)


def _ours(store: S3Store, manifest: Manifest) -> Iterator[int]:
    """The size of each batch, as the network takes it."""
    info = architecture_info(ARCHITECTURE)
    make = BatchMaker(
        SampleReader(store, manifest, cache_bytes=0),  # as for a dataset that does not fit
        SampleOrder(manifest.shards, seed=0, batch_size=BATCH),
        None,
        ImageBatcher(info.image_size, info.mean, "crop"),
        tokenizer(ARCHITECTURE),
        kept=Kept(0),
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std))
    steps = batches(make, 0, make.order.steps_per_epoch, workers=WORKERS)
    return (len(normalise(batch.images, mean, std)) for batch in steps)


def _open_clip(store: S3Store, manifest: Manifest) -> Iterator[int]:
    """The same of the stages of open_clip_train.data.get_wds_dataset, whose own tar reader does not work with webdataset 1.0."""
    import webdataset
    from open_clip.transform import image_transform

    info = architecture_info(ARCHITECTURE)
    sign, tokenize = store.connection.client.generate_presigned_url, tokenizer(ARCHITECTURE)
    urls = [sign("get_object", Params={"Bucket": store.bucket, "Key": shard.key}) for shard in manifest.shards]
    transform = image_transform(info.image_size, is_train=True, mean=info.mean, std=info.std)
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList([f"pipe:curl -s '{url}'" for url in urls]),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(bufsize=5000, initial=1000),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.map_dict(image=transform, text=lambda text: tokenize([text])[0]),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(BATCH, partial=True),
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=WORKERS)
    return (len(images) for images, _ in loader)


def reference_rate() -> dict[str, Any]:
    """Shards from SeaweedFS to features in it, over the same model on tensors that are in memory; best of some rounds each."""
    seconds: dict[str, list[float]] = {"reference": [], "encoding": []}
    with _served(ENCODED, 256) as (store, manifest):
        torch.manual_seed(0)
        save_export(create_model(ARCHITECTURE), ARCHITECTURE, store, layout.export("public"))
        encoder = load_model("run:public", store)
        config = ReferenceConfig(dataset="pictures", model="run:public", name="ref", batch_size=ENCODE_BATCH)
        files = FeatureFiles(store, "pictures", "ref", ReferenceIdentity.parse(encoder.record()))
        images = torch.randn(ENCODE_BATCH, 3, 224, 224)
        model = encoder.model
        tokens = encoder.tokenize(["clouds of the kind 1, number 1"] * ENCODE_BATCH)
        for _ in range(REPEATS):
            started = time.perf_counter()
            encode_shards(config, encoder, SampleReader(store, manifest), files, manifest.shards)
            between = time.perf_counter()
            for _ in range(math.ceil(ENCODED / ENCODE_BATCH)):
                with torch.inference_mode():
                    model.encode_image(images, normalize=True)
                    model.encode_text(tokens, normalize=True)
            seconds["reference"].append(between - started)
            seconds["encoding"].append(time.perf_counter() - between)
    whole, bare = (statistics.median(values) for values in seconds.values())
    return {
        "ratio": bare / whole,
        "goal": 0.95,
        "compared": f"encoding alone over reference features: {ARCHITECTURE}, {ENCODED} JPEGs of 256 pixels",
        "seconds": {"reference": whole, "encoding": bare},
    }
