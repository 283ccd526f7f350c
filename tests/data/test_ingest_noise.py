from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_helpers import folder_config, numbered, write_pairs

from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.noise import exchange
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.storage import Store


def samples(store: Store, dataset: str) -> dict[str, Sample]:
    manifest = load_manifest(store, dataset)
    reader = SampleReader(store, manifest)
    return {str(sample.meta["key"]): sample for shard in manifest.shards for sample in reader.shard(shard)}


def heldout(store: Store, dataset: str) -> set[str]:
    manifest = load_manifest(store, dataset)
    reader = SampleReader(store, manifest)
    return {str(sample.meta["key"]) for shard in manifest.split("heldout") for sample in reader.shard(shard)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pets", numbered(300))


def test_a_share_of_the_training_captions_is_exchanged(source: Path, folder_store: Store) -> None:
    manifest = ingest(folder_config(source, caption_noise=0.3, shard_samples=100), folder_store)
    found = samples(folder_store, "pets")
    exchanged = {key for key, sample in found.items() if sample.meta["exchanged"]}
    assert exchanged == {key for key, sample in found.items() if sample.caption != f"a picture of {key}"}
    assert manifest.exchanged == len(exchanged)
    assert len(exchanged) / manifest.splits["train"] == pytest.approx(0.3, abs=0.08)
    assert not exchanged & heldout(folder_store, "pets")
    given = Counter(sample.caption for sample in found.values())
    assert given == Counter(f"a picture of {key}" for key in numbered(300))


def test_the_clean_part_leaves_out_exactly_the_exchanged(source: Path, folder_store: Store) -> None:
    noisy = ingest(folder_config(source, caption_noise=0.3, shard_samples=100), folder_store)
    clean = ingest(folder_config(source, dataset="clean", caption_noise=0.3, caption_noise_part="clean"), folder_store)
    kept = samples(folder_store, "clean")
    assert set(kept) == {key for key, sample in samples(folder_store, "pets").items() if not sample.meta["exchanged"]}
    assert all(sample.caption == f"a picture of {key}" for key, sample in kept.items())
    assert clean.exchanged == 0
    assert heldout(folder_store, "clean") == heldout(folder_store, "pets")
    assert noisy.total - clean.total == noisy.exchanged
    assert ingest(folder_config(source, dataset="clean", caption_noise=0.3, caption_noise_part="clean"), folder_store) == clean


def test_growth_leaves_the_exchanged_as_they_are(source: Path, folder_store: Store) -> None:
    config = folder_config(source, caption_noise=0.5)
    ingest(config, folder_store)
    before = {key: sample.caption for key, sample in samples(folder_store, "pets").items()}
    write_pairs(source, numbered(40, first=300))
    manifest = ingest(config, folder_store)
    found = samples(folder_store, "pets")
    assert {key: sample.caption for key, sample in found.items()}.items() >= before.items()
    assert manifest.exchanged == sum(sample.meta["exchanged"] for sample in found.values())


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.integers(0, 9))
def test_exchanging_deals_out_the_same_captions_and_never_ones_own(captions: list[str], seed: int) -> None:
    dealt = exchange(captions, seed)
    assert Counter(dealt) == Counter(captions)
    assert exchange(captions, seed) == dealt
    most = max(Counter(captions).values(), default=0)
    if most <= len(captions) // 2:
        assert all(mine != own for mine, own in zip(dealt, captions, strict=True))
