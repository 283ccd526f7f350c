"""The step `evaluate` on a small dataset: what it finds, keeps, replaces and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import decode_image
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.errors import ConfigError, DataError, ModelError
from drrho_clip.evaluation import EvaluateConfig, Evaluation, evaluate
from drrho_clip.models import create_model, load_model, save_export
from drrho_clip.reference import ReferenceConfig, compute_reference
from drrho_clip.storage import Store, layout, open_store

SCENES = IngestConfig(
    dataset="scenes", source="scenes", samples=150, image_size=32, shard_samples=37, heldout_fraction=0.2, workers=1
)


def export(store: Store, run: str, seed: int) -> None:
    torch.manual_seed(seed)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export(run))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the dataset `scenes` and the runs `one` and `two`."""
    folder = tmp_path_factory.mktemp("evaluation") / "store"
    ingest(SCENES, open_store(folder))
    export(open_store(folder), "one", 1)
    export(open_store(folder), "two", 2)
    return folder


@pytest.fixture
def store(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of the template, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_store(shutil.copytree(template, tmp_path / "store"))


def settings(**changes: object) -> EvaluateConfig:
    return EvaluateConfig.parse({"dataset": "scenes", "batch_size": 16, "decode_threads": 2} | changes)


def naive(store: Store, run: str, split: str) -> dict[str, float]:
    """Recall at 1, sample by sample; captions and pictures of the split are all different."""
    manifest = load_manifest(store, "scenes")
    reader, encoder = SampleReader(store, manifest), load_model(f"run:{run}", store)
    samples = [sample for shard in manifest.split(split) for sample in reader.shard(shard)]
    assert len({sample.caption for sample in samples}) == len({sample.meta["sha256"] for sample in samples}) == len(samples)
    images = encoder.encode_image(torch.stack([encoder.preprocess(decode_image(sample.image)) for sample in samples]))
    texts = encoder.encode_text(encoder.tokenize([sample.caption for sample in samples]))
    similarity = images @ texts.T
    right = torch.arange(len(samples))
    return {
        "image_to_text_recall_at_1": float((similarity.argmax(dim=1) == right).float().mean()),
        "text_to_image_recall_at_1": float((similarity.argmax(dim=0) == right).float().mean()),
    }


def test_a_run(store: Store):
    found = evaluate(settings(run="one"), store)
    expected = naive(store, "one", "heldout")
    assert {name: found.scalars()[name] for name in expected} == pytest.approx(expected)
    assert set(found.scalars()) == {
        *(f"{side}_recall_at_{k}" for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
        *("zero_shot_top_1", "zero_shot_top_5", "zero_shot_mean_per_class"),
    }
    assert set(found.standard_errors()) == set(found.scalars()) - {"zero_shot_mean_per_class"}
    manifest = load_manifest(store, "scenes")
    assert found.samples == found.retrieval.images == found.zero_shot.samples == manifest.splits["heldout"]
    assert sum(c.samples for c in found.zero_shot.per_class.values()) == found.samples
    written = json.loads(store.read("runs/one/evaluation/scenes-heldout.json"))
    assert Evaluation.parse(written) == found
    assert "Equal pictures" in written["retrieval"]["definition"]


def test_a_reference_is_scored_by_its_features_as_its_run_is(store: Store):
    compute_reference(ReferenceConfig(dataset="scenes", model="run:one", name="ref", pool=8), store)
    run, reference = evaluate(settings(run="one"), store), evaluate(settings(reference="ref"), store)
    assert reference.scalars() == pytest.approx(run.scalars(), abs=0.04)  # fp16 may exchange a near tie
    assert store.head("datasets/scenes/reference/ref/evaluation/heldout.json")
    assert reference.model == {**run.model, "spec": "run:one"}


def test_a_reference_whose_model_has_changed_is_refused(store: Store):
    compute_reference(ReferenceConfig(dataset="scenes", model="run:one", name="ref", pool=8), store)
    export(store, "one", 3)
    with pytest.raises(ModelError, match=r"Reference 'ref' is from the model 'run:one'.*weights_sha256"):
        evaluate(settings(reference="ref"), store)
    without_text = evaluate(settings(reference="ref", classnames="none"), store)
    assert without_text.zero_shot is None
    assert without_text.zero_shot_absent == "not asked for"


def test_a_model_that_is_neither(store: Store):
    weights = Path(store.uri, layout.export("one"), "open_clip_model.safetensors")
    found = evaluate(settings(model=f"drrho-nano:{weights}"), store)
    assert found.scalars() == evaluate(settings(run="one"), store).scalars()
    assert [info.key for info in store.list("models/") if info.key.endswith("/evaluation/scenes-heldout.json")]


def test_a_finished_evaluation_is_found_without_torch(store: Store):
    found = evaluate(settings(run="one"), store)
    code = (
        "import sys\n"
        "from drrho_clip.storage import open_store\n"
        "from drrho_clip.evaluation import EvaluateConfig, evaluate\n"
        f"config = EvaluateConfig.model_validate_json({settings(run='one').model_dump_json()!r})\n"
        f"print(evaluate(config, open_store({store.uri!r})).created, file=sys.stderr)\n"
        "assert not {'torch', 'open_clip'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert found.created in result.stderr


def test_what_has_changed_is_evaluated_again_and_nothing_else_is(store: Store, tmp_path: Path):
    key = "runs/one/evaluation/scenes-heldout.json"
    first = evaluate(settings(run="one"), store)
    etag = store.head(key).etag
    assert evaluate(settings(run="one"), store) == first
    assert store.head(key).etag == etag
    export(store, "one", 4)
    second = evaluate(settings(run="one"), store)
    assert second.model["weights_sha256"] != first.model["weights_sha256"]
    ingest(SCENES.model_copy(update={"samples": 220}), store)
    third = evaluate(settings(run="one"), store)
    assert third.shards_id != second.shards_id
    assert third.samples == load_manifest(store, "scenes").splits["heldout"] > second.samples


def test_other_settings_have_results_of_their_own(store: Store, tmp_path: Path):
    (tmp_path / "two classes.json").write_text('["circle", "square"]')
    evaluate(settings(run="one"), store)
    everything = evaluate(settings(run="one", candidates="all"), store)
    two = evaluate(settings(run="one", classnames=str(tmp_path / "two classes.json")), store)
    evaluate(settings(run="one", precision="bf16"), store)
    names = {Path(info.key).name for info in store.list("runs/one/evaluation/")}
    assert names == {
        "scenes-heldout.json",
        "scenes-heldout-all.json",
        "scenes-heldout-two-classes.json",
        "scenes-heldout-bf16.json",
    }
    assert (everything.retrieval.candidate_images, everything.retrieval.images) == (150, everything.samples)
    assert two.zero_shot.classes == 2
    assert two.zero_shot.skipped["class not in the list"] + two.zero_shot.samples == two.samples
    (tmp_path / "two classes.json").write_text('["circle"]')
    one = evaluate(settings(run="one", classnames=str(tmp_path / "two classes.json")), store)
    assert one.zero_shot is None
    assert "one class only" in one.zero_shot_absent
    assert "zero_shot_top_1" not in one.scalars()


def test_reference_and_evaluation_in_an_object_store(s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ingest(SCENES.model_copy(update={"samples": 60}), s3_store)
    export(s3_store, "one", 1)
    config = ReferenceConfig(dataset="scenes", model="run:one", name="ref", pool=8)
    reference = compute_reference(config, s3_store)
    found = evaluate(settings(reference="ref", candidates="all"), s3_store)
    assert found.retrieval.candidate_images == 60
    before = {info.key: info.etag for info in s3_store.list()}
    assert compute_reference(config, s3_store) == reference
    assert evaluate(settings(reference="ref", candidates="all"), s3_store) == found
    assert {info.key: info.etag for info in s3_store.list()} == before


def test_features_that_are_no_numbers_are_refused(store: Store):
    model = create_model("drrho-nano")
    with torch.no_grad():
        model.visual.proj.fill_(float("nan"))
    save_export(model, "drrho-nano", store, layout.export("broken"))
    with pytest.raises(ModelError, match="features that are not finite"):
        evaluate(settings(run="broken"), store)
    assert store.head("runs/broken/evaluation/scenes-heldout.json") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "three"}, "Run 'three' has no exported model.*one, two"),
        ({"reference": "ref"}, "no finished reference 'ref'"),
        ({"run": "one", "dataset": "scene"}, "There is no dataset 'scene'.*scenes"),
        ({"run": "one", "split": "validation"}, "no split 'validation'.*heldout"),
        ({"run": "one", "classnames": "/nowhere/names.json"}, "no such file of class names"),
    ],
)
def test_what_is_not_there_is_named(store: Store, changes: dict[str, str], message: str):
    with pytest.raises((DataError, ModelError, ConfigError), match=message):
        evaluate(settings(**changes), store)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of run, model and reference .none given"),
        ({"run": "a", "reference": "b"}, "run and reference given"),
        ({"run": "a", "candidates": "some"}, "candidates"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        settings(**given)
