"""Tars in one bucket of a real S3 server, adopted into a store in another."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.reader import SampleReader
from drrho_clip.errors import DataError
from drrho_clip.storage import Store, open_store
from drrho_clip.storage.s3_client import Connection
from drrho_clip.verification.dataset import verify_dataset


def shards_of(store: Store, tmp_path: Path) -> None:
    """Put three shards of scenes there, as somebody's WebDataset tars."""
    local = open_store(tmp_path / "made")
    made = ingest(
        IngestConfig(dataset="x", source="scenes", samples=24, shard_samples=8, image_size=32, heldout_fraction=0.0, workers=1),
        local,
    )
    for number, shard in enumerate(made.shards):
        local.download(shard.key, tmp_path / "tar")
        store.upload(f"pool/{number:05d}.tar", tmp_path / "tar")


@pytest.fixture
def other_bucket(s3_store: Store) -> Store:
    name = f"other-{uuid.uuid4().hex[:12]}"
    Connection().client.create_bucket(Bucket=name)
    return open_store(f"s3://{name}")


def config_of(path: str, dataset: str, *, adopt: bool) -> IngestConfig:
    return IngestConfig(
        dataset=dataset, source="shards", path=path, adopt=adopt, shard_samples=8, heldout_fraction=0.0, workers=1
    )


def test_tars_of_another_bucket(s3_store: Store, other_bucket: Store, tmp_path: Path) -> None:
    shards_of(other_bucket, tmp_path)
    path = f"{other_bucket.uri}/pool"
    manifest = ingest(config_of(path, "web", adopt=True), s3_store)
    copy = ingest(config_of(path, "copy", adopt=False), s3_store)
    assert [shard.location for shard in manifest.shards] == [f"{path}/{number:05d}.tar" for number in range(3)]
    ours, theirs = SampleReader(s3_store, manifest), SampleReader(s3_store, copy)
    for index in range(manifest.total):
        one, other = ours.get(index), theirs.get(index)
        assert (one.image, one.caption, one.meta["key"]) == (other.image, other.caption, other.meta["key"])
    written = {info.key: info.size for info in s3_store.list("datasets/web/")}
    assert not any(key.endswith(".tar") for key in written)
    assert sum(written.values()) < sum(shard.bytes for shard in manifest.shards) / 4
    assert verify_dataset(s3_store, "web").problems == []
    assert ingest(config_of(path, "web", adopt=True), s3_store) == manifest

    other_bucket.write("pool/00001.tar", other_bucket.read("pool/00001.tar") + bytes(512))
    other_bucket.delete("pool/00002.tar")
    with pytest.raises(DataError, match=r"it was altered after it was published.*pool/00001.tar"):
        SampleReader(s3_store, manifest).get(8)
    with pytest.raises(DataError, match=r"it is gone.*pool/00002.tar"):
        SampleReader(s3_store, manifest).get(16)
    assert len(verify_dataset(s3_store, "web").problems) == 2


def test_tars_in_the_bucket_of_the_store(s3_store: Store, tmp_path: Path) -> None:
    shards_of(s3_store, tmp_path)
    manifest = ingest(config_of(f"{s3_store.uri}/pool/*.tar", "web", adopt=True), s3_store)
    assert [shard.location for shard in manifest.shards] == [f"pool/{number:05d}.tar" for number in range(3)]
    assert verify_dataset(s3_store, "web").problems == []
