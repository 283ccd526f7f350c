"""Training with the node's cache: the settings reach it, and one that is too small is left out."""

from __future__ import annotations

from pathlib import Path

import structlog

from drrho_clip.data.manifest import Manifest, Shard, dataset_id
from drrho_clip.storage import Store, open_store
from drrho_clip.storage.cached import CachedStore
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.__main__ import main
from drrho_clip.training.step import sample_order
from drrho_clip.training.worker import _cached
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
