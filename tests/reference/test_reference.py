"""The step `reference`: what it computes, what it keeps, and what it refuses."""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from reference_helpers import SETTINGS, draw

from drrho_clip.data.features import FeatureReader
from drrho_clip.data.images import decode_image
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest, Shard, load_manifest
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.data.reference_manifest import ReferenceIdentity
from drrho_clip.errors import ConfigError, DataError, ModelError
from drrho_clip.models import load_model
from drrho_clip.reference import ReferenceConfig, compute_reference, other_workers
from drrho_clip.reference.features import FeatureFiles
from drrho_clip.reference.losses import draw_pool
from drrho_clip.reference.work import encode_shards, in_order
from drrho_clip.storage import Store, layout

HOME = "datasets/cats/reference/ref/"


def etags(store: Store) -> dict[str, str]:
    """Version of every object of the reference."""
    return {info.key.removeprefix(HOME): info.etag for info in store.list(HOME)}


def feature_files(store: Store) -> dict[str, str]:
    return {key: etag for key, etag in etags(store).items() if key.endswith(".safetensors")}


def losses(store: Store) -> dict[str, np.ndarray]:
    table = pq.read_table(io.BytesIO(store.read(layout.reference_losses("cats", "ref"))))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def test_features_are_those_of_encoding_each_sample(store: Store, manifest: Manifest, config: ReferenceConfig):
    reference = compute_reference(config, store)
    assert [shard.count for shard in manifest.shards].count(37) >= 1
    assert [shard.key for shard in reference.shards] == [shard.key for shard in manifest.shards]
    encoder = load_model("run:one", store)
    reader = SampleReader(store, manifest)
    samples = [reader.get(index) for index in range(manifest.total)]
    images = torch.stack([encoder.preprocess(decode_image(sample.image)) for sample in samples])
    texts = encoder.tokenize([sample.caption for sample in samples])
    expected = torch.stack([encoder.encode_image(images), encoder.encode_text(texts)], dim=1)
    order = np.random.default_rng(0).permutation(manifest.total)
    features = FeatureReader(store, "cats", "ref", manifest).get(order)
    assert features.dtype == torch.float16
    torch.testing.assert_close(features.float(), expected[order], atol=1e-3, rtol=0)
    torch.testing.assert_close(features.float().norm(dim=2), torch.ones(manifest.total, 2), atol=2e-3, rtol=0)
    keys = list(losses(store)["key"])
    assert keys == [sample.meta["key"] for sample in samples]
    assert any(key.startswith("cat_a-7") for key in keys)


def test_losses_agree_with_a_naive_formula(store: Store, manifest: Manifest, config: ReferenceConfig):
    reference = compute_reference(config, store)
    table = losses(store)
    features = FeatureReader(store, "cats", "ref", manifest).get(np.arange(manifest.total)).double().numpy()
    train = {i for shard in manifest.split("train") for i in range(shard.base, shard.base + shard.count)}
    assert list(table["index"]) == list(range(manifest.total))
    assert {i for i, split in enumerate(table["split"]) if split == "train"} == train
    pool = draw_pool(manifest, 20, 0)
    assert len(set(pool)) == 20
    assert set(pool) <= train
    assert pool == draw_pool(manifest, 20, 0) != draw_pool(manifest, 20, 1)
    for i in (*pool[:2], *range(0, manifest.total, 7)):
        for side, name in enumerate(("image_loss", "text_loss")):
            rivals = [i] + [j for j in pool if j != i]
            logits = np.array([reference.identity.logit_scale * features[i, side] @ features[j, 1 - side] for j in rivals])
            assert table[name][i] == pytest.approx(np.log(np.exp(logits).sum()) - logits[0], abs=1e-4)
        assert table["similarity"][i] == pytest.approx(features[i, 0] @ features[i, 1], abs=1e-5)


def test_a_finished_reference_is_found_without_torch(store: Store, config: ReferenceConfig):
    compute_reference(config, store)
    before = etags(store)
    code = (
        "import sys\n"
        "from drrho_clip.storage import open_store\n"
        "from drrho_clip.reference import ReferenceConfig, compute_reference\n"
        f"compute_reference(ReferenceConfig.model_validate_json({config.model_dump_json()!r}), open_store({store.uri!r}))\n"
        "assert not {'torch', 'open_clip'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert etags(store) == before


def delete_one(store: Store) -> None:
    store.delete(HOME + "000001.safetensors")


def cut_one(store: Store) -> None:
    store.write(HOME + "000001.safetensors", store.read(HOME + "000001.safetensors")[:200])


def swap_two(store: Store) -> None:
    store.write(HOME + "000001.safetensors", store.read(HOME + "000000.safetensors"))


def delete_losses(store: Store) -> None:
    store.delete(HOME + "losses.parquet")


@pytest.mark.parametrize(
    ("damage", "published"),
    [(delete_one, True), (cut_one, True), (delete_losses, True), (delete_one, False), (cut_one, False), (swap_two, False)],
)
def test_only_what_is_missing_is_computed_again(store: Store, config: ReferenceConfig, damage, published: bool):
    compute_reference(config, store)
    before, table = feature_files(store), losses(store)
    damage(store)
    if not published:
        store.delete(HOME + "manifest.json")
    modified = {path.name: path.stat().st_mtime_ns for path in Path(store.uri, HOME).glob("*.safetensors")}
    compute_reference(config, store)
    assert feature_files(store) == before
    rewritten = {p.name for p in Path(store.uri, HOME).glob("*.safetensors") if modified.get(p.name) != p.stat().st_mtime_ns}
    assert rewritten == (set() if damage is delete_losses else {"000001.safetensors"})
    assert all(np.array_equal(losses(store)[name], column) for name, column in table.items())


def test_workers_share_the_shards_and_the_last_one_publishes(store: Store, manifest: Manifest, config: ReferenceConfig):
    parts = [config.model_copy(update={"worker": worker, "workers": 3}) for worker in (2, 1, 0)]
    assert len(manifest.shards) >= 3
    done = [len(compute_reference(part, store).shards) for part in parts[:2]]
    assert done == [len(manifest.shards[2::3]), len(manifest.shards[2::3]) + len(manifest.shards[1::3])]
    assert "manifest.json" not in etags(store)
    assert compute_reference(parts[2], store).shards == compute_reference(config, store).shards
    assert {"manifest.json", "losses.parquet"} <= set(etags(store))


def test_worker_0_does_what_the_others_have_not_done(store: Store, manifest: Manifest, config: ReferenceConfig):
    last = config.model_copy(update={"worker": 2, "workers": 3})
    compute_reference(last, store)
    before = feature_files(store)
    assert 0 < len(before) < len(manifest.shards)
    whole = compute_reference(config.model_copy(update={"workers": 3}), store)
    assert len(whole.shards) == len(manifest.shards)
    assert "manifest.json" in etags(store)
    assert {key: etag for key, etag in feature_files(store).items() if key in before} == before
    assert compute_reference(last, store) == whole


def test_the_others_shards_come_last_and_from_the_end(manifest: Manifest, config: ReferenceConfig):
    shards = [*manifest.shards, *manifest.shards][:6]
    shares = [in_order(config.model_copy(update={"worker": worker, "workers": 3}), shards) for worker in range(3)]
    assert shares[0] == [shards[0], shards[3], shards[5], shards[4], shards[2], shards[1]]
    assert shares[1:] == [[shards[1], shards[4]], [shards[2], shards[5]]]
    assert in_order(config, shards) == shards


def test_a_shard_that_another_worker_has_done_by_then_is_passed_over(store: Store, manifest: Manifest, config: ReferenceConfig):
    class Noting(FeatureFiles):
        def write(self, shard: Shard, features: torch.Tensor, keys: list[str]) -> None:
            written.append(shard)
            super().write(shard, features, keys)

    written: list[Shard] = []
    compute_reference(config, store)
    encoder = load_model("run:one", store)
    files = Noting(store, "cats", "ref", ReferenceIdentity.parse(encoder.record()))
    before = feature_files(store)
    store.delete(files.key(manifest.shards[1]))
    shared = config.model_copy(update={"workers": 2})
    encode_shards(shared, encoder, SampleReader(store, manifest), files, manifest.shards)
    assert written == [manifest.shards[1]]
    assert feature_files(store) == before


@pytest.mark.parametrize(("asked", "others"), [(1, [1]), (2, [1]), (3, [1, 2]), (64, None)])
def test_no_more_workers_start_than_there_are_shards(
    asked: int, others: list[int] | None, store: Store, manifest: Manifest, config: ReferenceConfig
):
    expected = list(range(1, len(manifest.shards))) if others is None else others
    assert other_workers(config.model_copy(update={"workers": asked}), store) == expected


def test_a_dataset_that_has_grown_gets_what_it_lacks(store: Store, pictures: Path, manifest: Manifest, config: ReferenceConfig):
    compute_reference(config, store)
    before = feature_files(store)
    draw(pictures, 40, first=90)
    grown = ingest(SETTINGS, store)
    assert grown.total == 130
    reference = compute_reference(config, store)
    assert reference.dataset_id == grown.id
    assert {key: etag for key, etag in feature_files(store).items() if key in before} == before
    assert len(feature_files(store)) == len(grown.shards) > len(manifest.shards)
    assert len(losses(store)["index"]) == 130
    assert FeatureReader(store, "cats", "ref", manifest).get(np.array([0, 89])).shape == (2, 2, 32)  # the old version, still


def test_a_dataset_made_anew_under_the_same_name_is_refused(store: Store, pictures: Path, config: ReferenceConfig):
    compute_reference(config, store)
    before = etags(store)
    for name in ("manifest.json", "versions", "shards"):
        path = Path(store.uri, "datasets/cats", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    draw(pictures, 5, first=500)
    ingest(SETTINGS, store)
    with pytest.raises(DataError, match="Reference features belong to another dataset version"):
        compute_reference(config, store)
    assert etags(store) == before


def test_another_model_under_the_same_name_is_refused(store: Store, config: ReferenceConfig):
    compute_reference(config, store)
    before = etags(store)
    with pytest.raises(
        ModelError, match=r"'ref' of dataset 'cats' is from the model 'run:one', which is not 'run:two': weights_sha"
    ):
        compute_reference(config.model_copy(update={"model": "run:two"}), store)
    with pytest.raises(ModelError, match="precision is fp32 there, bf16 here"):
        compute_reference(config.model_copy(update={"precision": "bf16"}), store)
    assert etags(store) == before


def test_the_same_model_by_another_name_is_found(store: Store, config: ReferenceConfig):
    compute_reference(config, store)
    before = etags(store)
    weights = Path(store.uri, layout.export("one"), "open_clip_model.safetensors")
    compute_reference(config.model_copy(update={"model": f"drrho-nano:{weights}"}), store)
    assert etags(store) == before


def test_features_of_another_model_left_half_done_are_replaced(store: Store, config: ReferenceConfig):
    compute_reference(config.model_copy(update={"model": "run:two", "worker": 1, "workers": 2}), store)
    foreign = feature_files(store)
    assert foreign
    compute_reference(config, store)
    assert not set(foreign.values()) & set(feature_files(store).values())


def test_features_in_another_order_than_the_samples_stop_the_step(store: Store, manifest: Manifest, config: ReferenceConfig):
    compute_reference(config, store)
    files = FeatureFiles(store, "cats", "ref", ReferenceIdentity.parse(load_model("run:one", store).record()))
    for shard in manifest.shards:
        features, keys = files.read(shard)
        files.write(shard, features.roll(1, dims=0), keys)
    store.delete(HOME + "manifest.json")
    with pytest.raises(DataError, match=r"The features stored for sample \d+ \('cat_a-\d+.*are not its own"):
        compute_reference(config, store)
    assert "manifest.json" not in etags(store)


def test_an_image_that_cannot_be_decoded_is_named(store: Store, manifest: Manifest, config: ReferenceConfig, monkeypatch):
    real = SampleReader.in_order

    def damaged(self: SampleReader, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Sample]]:
        for shard, sample in real(self, shards):
            yield shard, dataclasses.replace(sample, image=sample.image[:60]) if sample.index == 40 else sample

    monkeypatch.setattr(SampleReader, "in_order", damaged)
    with pytest.raises(DataError, match=r"The image of sample 40 cannot be decoded.*key cat_a-\d+"):
        compute_reference(config, store)
    assert set(etags(store)) == {"000000.safetensors"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "dogs"}, "There is no dataset 'dogs'"),
        ({"model": "run:three"}, "Run 'three' has no exported model.*one, two"),
    ],
)
def test_what_is_not_there_is_named(store: Store, config: ReferenceConfig, changes: dict[str, str], message: str):
    with pytest.raises((DataError, ModelError), match=message):
        compute_reference(config.model_copy(update=changes), store)
    assert etags(store) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worker": 2, "workers": 2}, "worker 2 of 2"),
        ({"model": "::"}, "no name can be made"),
        ({"modle": "run:x"}, "model"),
        ({"precision": "fp16"}, "precision"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        ReferenceConfig.parse(settings)


@pytest.mark.parametrize(
    ("model", "name"),
    [("ViT-B-32/openai", "ViT-B-32-openai"), ("run:clean", "run-clean"), ("ViT-B-32:s3://b/w.pt", "ViT-B-32-s3-b-w.pt")],
)
def test_names_made_from_the_model(model: str, name: str):
    assert ReferenceConfig(model=model).reference_id == name
    assert layout.reference("cats", name)
    assert ReferenceConfig(model=model, name="mine").reference_id == "mine"


def test_the_newest_version_is_what_counts(store: Store, config: ReferenceConfig):
    assert compute_reference(config, store).dataset_version == load_manifest(store, "cats").version
