"""Batches for training from a real server, through a network whose requests are counted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fault_proxy import FaultProxy
from PIL import Image

from drrho_clip.data.augment import ImageBatcher
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.loader import BatchMaker, Kept, batches
from drrho_clip.data.manifest import Manifest
from drrho_clip.data.order import SampleOrder
from drrho_clip.data.reader import SampleReader
from drrho_clip.storage import Store
from drrho_clip.storage.blocks import Blocks
from drrho_clip.storage.cached import CachedStore
from drrho_clip.storage.s3 import S3Store
from drrho_pipelines.seaweed import SeaweedServer


@pytest.fixture
def proxy(s3_environment: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(int(s3_environment.endpoint.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


def maker(store: Store, manifest: Manifest) -> BatchMaker:
    """Steps of 16 samples of a dataset that is larger than any memory."""
    return BatchMaker(
        SampleReader(store, manifest, cache_bytes=0),
        SampleOrder(manifest.shards, seed=0, batch_size=16),
        None,
        ImageBatcher(16, (0.5, 0.5, 0.5)),
        lambda texts: torch.zeros(len(texts), 4, dtype=torch.int64),
        kept=Kept(0),
    )


def test_a_second_epoch_asks_the_network_for_nothing(seaweed: SeaweedServer, proxy: FaultProxy, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for number in range(48):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"in/{number}.png")
        (tmp_path / f"in/{number}.txt").write_text(f"number {number}")
    far = S3Store(seaweed.bucket, uuid.uuid4().hex)
    config = {"dataset": "d", "source": "folder", "path": str(tmp_path / "in"), "shard_samples": 16, "workers": 1}
    manifest = ingest(IngestConfig.parse({**config, "heldout_fraction": 0}), far)
    make = maker(CachedStore(far, Blocks(tmp_path / "cache", 2**30)), manifest)
    first = list(batches(make, 0, 3, workers=0))
    before = proxy.requests
    second = list(batches(make, 3, 6, workers=0))
    assert proxy.requests == before
    assert sorted(torch.cat([batch.index for batch in second]).tolist()) == list(range(48))
    direct = list(batches(maker(far, manifest), 0, 6, workers=0))
    assert proxy.requests >= before + 6, "an index and a read of each shard"
    for batch, expected in zip([*first, *second], direct, strict=True):
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.images, expected.images)
    # Another process has to learn where the samples lie, and asks for none of them.
    before = proxy.requests
    list(batches(maker(CachedStore(far, Blocks(tmp_path / "cache", 2**30)), manifest), 0, 3, workers=0))
    assert proxy.requests - before == 2 * len(manifest.shards), "an index and a size for each shard"
