"""A dataset of the samples that a run weighed most."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.storage import Store, layout


def curate(store: Store, **changed) -> Manifest:
    return ingest(IngestConfig.parse({"dataset": "kept", "source": "curated", "path": "run", "workers": 1, **changed}), store)


def finish_run(store: Store, weights: dict[int, float], **changed) -> None:
    """What a finished run leaves for curation: the data it was trained on, and the weights."""
    manifest = load_manifest(store, "noisy")
    summary = {"dataset": "noisy", "dataset_version": manifest.version, "dataset_id": manifest.id, **changed}
    store.write(layout.run_summary("run"), json.dumps(summary).encode())
    values = np.array(list(weights.values()), dtype=np.float32)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"index": list(weights), "image_weight": values, "text_weight": values}), buffer)
    store.write(layout.run_weights("run"), buffer.getvalue())


def samples(store: Store, manifest: Manifest) -> dict[str, tuple[str, Sample]]:
    reader = SampleReader(store, manifest)
    return {sample.meta["key"]: (shard.split, sample) for shard in manifest.shards for sample in reader.shard(shard)}


@pytest.fixture
def noisy(folder_store: Store) -> Manifest:
    """Forty generated scenes, a part of them with another one's caption."""
    settings = {"dataset": "noisy", "source": "scenes", "samples": 40, "image_size": 32, "caption_noise": 0.4, "workers": 1}
    return ingest(IngestConfig.parse({**settings, "shard_samples": 15}), folder_store)


def train_indices(manifest: Manifest) -> list[int]:
    return [index for shard in manifest.split("train") for index in range(shard.base, shard.base + shard.count)]


def test_the_samples_of_small_weight_are_left_out_and_all_else_stays(folder_store, noisy):
    train = train_indices(noisy)
    by_index = {sample.index: sample for _, sample in samples(folder_store, noisy).values()}
    finish_run(folder_store, {index: 0.1 if by_index[index].meta["exchanged"] else 0.9 for index in train})
    exchanged = noisy.exchanged
    assert 5 < exchanged < len(train) - 5
    kept = curate(folder_store, keep=1 - exchanged / len(train))
    before, after = samples(folder_store, noisy), samples(folder_store, kept)
    assert kept.exchanged == 0
    assert after.keys() == {key for key, (_, sample) in before.items() if not sample.meta["exchanged"]}
    for key, (split, sample) in after.items():
        assert (split, sample.image, sample.caption) == (before[key][0], before[key][1].image, before[key][1].caption)
        assert sample.meta == before[key][1].meta
    assert (kept.classnames, kept.templates, kept.notice) == (noisy.classnames, noisy.templates, noisy.notice)
    assert curate(folder_store, keep=1 - exchanged / len(train)) == kept  # found


def test_captions_that_were_exchanged_stay_known_as_such(folder_store, noisy):
    finish_run(folder_store, {index: float(index) for index in train_indices(noisy)})
    kept = curate(folder_store, keep=0.5)
    flags = [sample.meta["exchanged"] for _, sample in samples(folder_store, kept).values()]
    assert kept.exchanged == sum(flags) > 0
    assert kept.splits["train"] == noisy.splits["train"] - round(noisy.splits["train"] / 2)
    assert kept.splits["heldout"] == noisy.splits["heldout"]


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({}, "no finished run 'run'"),
        ({"dataset_id": "another"}, "made anew after run 'run'"),
        ({"weight": 1.0}, "weighs all of its samples alike"),
    ],
)
def test_a_run_that_says_nothing_of_the_data_is_refused(folder_store, noisy, left, message):
    if left:
        weight = left.pop("weight", None)
        finish_run(folder_store, {index: weight or index for index in train_indices(noisy)}, **left)
    with pytest.raises(DataError, match=message):
        curate(folder_store, keep=0.5)
    assert not list(folder_store.list("datasets/kept"))


@pytest.mark.parametrize("changed", [{"path": ""}, {"caption_noise": 0.1}])
def test_settings_that_do_not_fit_are_refused(folder_store, noisy, changed):
    finish_run(folder_store, {index: float(index) for index in train_indices(noisy)})
    with pytest.raises(ConfigError):
        curate(folder_store, **changed)
