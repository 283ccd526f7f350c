"""What a node keeps of the data: the cache on its disk, whose settings reach it, and its part of the memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from drrho_clip.data.manifest import Manifest, Shard, dataset_id
from drrho_clip.storage import Store, open_store
from drrho_clip.storage.cached import CachedStore
from drrho_clip.training import TrainConfig, train, worker
from drrho_clip.training.__main__ import main
from drrho_clip.training.step import sample_order
from drrho_clip.training.worker import _cached, batch_maker
from run_records import untimed_records


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


def test_a_run_with_a_cache_is_the_same_run(scenes_store: Store, tmp_path: Path):
    small = {"architecture": "drrho-nano", "dataset": "scenes", "method": "openclip", "batch_size": 32, "samples": 32 * 4}
    for run, path in (("without", ""), ("with", str(tmp_path / "cache"))):
        config = TrainConfig.parse({"run": run, **small, "warmup_steps": 1, "log_steps": 1, "cache_path": path, "cache_gib": 1})
        train(config, scenes_store, launch=in_process)
    assert untimed_records(scenes_store, "with") == untimed_records(scenes_store, "without")
    assert list((tmp_path / "cache").glob("??/*"))


def test_a_cache_that_cannot_hold_what_a_step_draws_from_is_left_out(tmp_path: Path):
    fixed = {"etag": "e", "sha256": "s", "bytes": 2**30, "count": 10_000, "split": "train"}
    shards = tuple(Shard.parse({"key": f"{number}.tar", "base": 10_000 * number, **fixed}) for number in range(400))
    manifest, store = Manifest(name="d", version=1, id=dataset_id(shards), shards=shards), open_store(tmp_path)
    config = TrainConfig(method="openclip", cache_path=str(tmp_path / "cache"), cache_gib=10)
    order = sample_order(config, manifest)
    with structlog.testing.capture_logs() as logs:
        assert _cached(config, manifest, order, store) is store
    assert [(line["event"], line["needed_gib"]) for line in logs] == [("cache_too_small", 109)]
    large = config.model_copy(update={"cache_gib": 109})
    assert isinstance(_cached(large, manifest, order, store), CachedStore)


def test_a_dataset_that_fits_in_its_part_of_the_memory_is_read_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    size = 900 * 2**20
    shard = Shard(key="0.tar", etag="e", sha256="s", bytes=size, count=250_000, base=0, split="train")
    manifest = Manifest(name="d", version=1, id=dataset_id((shard,)), shards=(shard,))
    found = []
    for memory, workers in ((8 * size, 0), (8 * size, 1), (8 * size, 2), (8 * size - 8, 0)):
        monkeypatch.setattr(worker, "memory_limit", lambda memory=memory: memory)
        config = TrainConfig(method="openclip", dataset="d", architecture="drrho-nano", workers=workers)
        found.append(batch_maker(config, manifest, open_store(tmp_path)).reader.in_runs)
    assert found == [True, True, False, False]
