"""From pictures to batches of indices through a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.order import SampleOrder
from drrho_clip.data.reader import SampleReader
from drrho_clip.errors import DataError, DrrhoError, StorageError
from drrho_clip.storage import Store, open_store

CONFIG = IngestConfig.parse(
    {"dataset": "toys", "source": "scenes", "samples": 60, "shard_samples": 16, "image_size": 32, "workers": 1}
)

KILLED_AT_THE_SECOND_SHARD = """
import os, signal, sys
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.storage import open_store
from drrho_clip.storage.s3 import S3Store

upload = S3Store.upload

def trapped(self, key, path, **condition):
    if key.endswith("000001.tar"):
        os.kill(os.getpid(), signal.SIGKILL)
    return upload(self, key, path, **condition)

S3Store.upload = trapped
ingest(IngestConfig.model_validate_json(sys.argv[2]), open_store(sys.argv[1]))
"""


def test_an_epoch_in_training_order(s3_store: Store) -> None:
    manifest = ingest(CONFIG, s3_store)
    reader = SampleReader(s3_store, load_manifest(s3_store, "toys"))
    reader.check()
    order = SampleOrder(manifest.split("train"), seed=0, batch_size=8)
    seen = np.concatenate([order.batch(step, rank, 2) for step in range(order.steps_per_epoch) for rank in range(2)])
    captions = {reader.get(int(index)).caption for index in seen}
    assert len(captions) == len(seen) == order.steps_per_epoch * 8
    assert ingest(CONFIG, s3_store) == manifest


def test_killed_half_way_and_started_again(s3_store: Store, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_SECOND_SHARD, s3_store.uri, CONFIG.model_dump_json()],
        env=dict(os.environ),
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    left = [info.key for info in s3_store.list()]
    assert any(key.endswith("000000.tar") for key in left)
    with pytest.raises(DataError, match="no dataset 'toys'"):
        load_manifest(s3_store, "toys")
    resumed = ingest(CONFIG, s3_store)
    undisturbed = ingest(CONFIG, open_store(tmp_path))
    assert resumed.id == undisturbed.id
    assert [shard.sha256 for shard in resumed.shards] == [shard.sha256 for shard in undisturbed.shards]
    resumed.check(s3_store)


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")]
)
def test_a_store_that_cannot_be_used_is_one_clear_error(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    uri = s3_store.uri
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if "ENDPOINT" in variable else (variable,):
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as caught:
        ingest(CONFIG, open_store(uri))
    assert isinstance(caught.value, DrrhoError)
    assert caught.value.fix


def test_a_bucket_that_is_not_there_is_named(s3_store: Store) -> None:
    with pytest.raises(StorageError, match="no-such-bucket"):
        ingest(CONFIG, open_store("s3://no-such-bucket/x"))
