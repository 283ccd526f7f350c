from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from drrho_clip.continual import PromoteConfig, find_promoted, promote
from drrho_clip.continual.promotion import find_decision
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.evaluation import EvaluateConfig, evaluate
from drrho_clip.models import create_model, save_export
from drrho_clip.storage import Store, layout, open_store

METRIC = "mean_recall_at_5"


@pytest.fixture(scope="module")
def ranked(scenes_folder: Path) -> list[tuple[float, int]]:
    """The metric of untrained models, worst first, with the seeds that they are made of."""
    store = open_store(scenes_folder)
    values = []
    for seed in range(4):
        export(store, f"probe-{seed}", seed)
        values.append((evaluate(EvaluateConfig(dataset="scenes", run=f"probe-{seed}"), store).metric(METRIC), seed))
    assert min(values)[0] < max(values)[0]
    return sorted(values)


def export(store: Store, run: str, seed: int) -> None:
    torch.manual_seed(seed)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export(run))


def settings(run: str, **changed: Any) -> PromoteConfig:
    return PromoteConfig.parse({"name": "best", "dataset": "scenes", "run": run, "metric": METRIC, **changed})


def test_a_better_run_takes_the_place_of_the_promoted_one(scenes_store: Store, ranked: list[tuple[float, int]]):
    (worst, first), (best, second) = ranked[0], ranked[-1]
    export(scenes_store, "one", first)
    export(scenes_store, "two", second)
    assert promote(settings("one", margin=0.5), scenes_store).why == "nothing was promoted before"
    decision = promote(settings("two", margin=(best - worst) / 2), scenes_store)
    assert (decision.promoted, decision.previous, decision.previous_value, decision.value) == (True, "one", worst, best)
    found = find_promoted("best", scenes_store)
    assert found is not None
    assert (found.run, found.previous, found.value, found.dataset_version) == ("two", "one", best, 1)
    assert found.report == scenes_store.uri_of(layout.report("two"))
    assert found.model == scenes_store.uri_of(layout.export("two"))
    assert find_promoted("other", scenes_store) is None


@pytest.mark.parametrize("case", ["worse", "better, but not by the margin", "equal"])
def test_a_run_that_is_not_better_is_refused(case: str, scenes_store: Store, ranked: list[tuple[float, int]]):
    (worst, bad), (best, good) = ranked[0], ranked[-1]
    first, second, margin = {"worse": (good, bad, 0.0), "equal": (good, good, 0.0)}.get(case, (bad, good, best - worst + 0.01))
    export(scenes_store, "one", first)
    export(scenes_store, "two", second)
    promote(settings("one"), scenes_store)
    before = scenes_store.read(layout.promoted("best"))
    decision = promote(settings("two", margin=margin), scenes_store)
    assert not decision.promoted
    assert "is not more than" in decision.why
    assert scenes_store.read(layout.promoted("best")) == before
    assert find_decision("two", scenes_store) == decision
    assert promote(settings("two", margin=-1), scenes_store) == decision  # what was decided stays


def test_of_equal_runs_at_the_same_time_one_wins(scenes_store: Store):
    runs = [f"run-{number}" for number in range(4)]
    for run in runs:
        export(scenes_store, run, 0)
        evaluate(settings(run).evaluation(run), scenes_store)
    together = threading.Barrier(4)

    def judge(run: str) -> bool:
        together.wait()
        return promote(settings(run), scenes_store).promoted

    with ThreadPoolExecutor(4) as pool:
        promoted = list(pool.map(judge, runs))
    assert promoted.count(True) == 1
    found = find_promoted("best", scenes_store)
    assert found is not None
    assert found.run == runs[promoted.index(True)]
    assert found.previous == ""


def test_a_run_that_was_promoted_and_then_interrupted_is_not_compared_with_itself(scenes_store: Store):
    export(scenes_store, "one", 0)
    decision = promote(settings("one"), scenes_store)
    scenes_store.delete(layout.promotion("one"))
    assert promote(settings("one", margin=0.5), scenes_store).model_copy(update={"margin": 0.0}) == decision


def test_both_are_judged_on_the_newest_version(scenes_store: Store):
    export(scenes_store, "one", 0)
    promote(settings("one"), scenes_store)
    grown = IngestConfig(dataset="scenes", source="scenes", samples=480, image_size=32, shard_samples=90, workers=1)
    assert ingest(grown, scenes_store).version == 2
    export(scenes_store, "two", 1)
    promote(settings("two"), scenes_store)
    for run in ("one", "two"):
        assert evaluate(settings(run).evaluation(run), scenes_store).dataset_version == 2


def test_any_score_can_be_the_metric(scenes_store: Store):
    found = evaluate(settings("ref").evaluation("ref"), scenes_store)
    for name in ("image_to_text_recall_at_1", "text_to_image_recall_at_5", "zero_shot_top_1", "zero_shot_mean_per_class"):
        assert found.metric(settings("ref", metric=name).metric) == found.scalars()[name]
    both = found.scalars()["image_to_text_recall_at_5"] + found.scalars()["text_to_image_recall_at_5"]
    assert found.metric(METRIC) == both / 2


def test_unusable_metrics_are_named(scenes_store: Store):
    with pytest.raises(ConfigError, match="'metric': a metric is mean_recall_at_5"):
        settings("one", metric="accuracy")
    with pytest.raises(ConfigError, match=r"'metric': a metric is .*recall at 1, 5, 10"):
        settings("one", metric="mean_recall_at_5000")
    export(scenes_store, "one", 0)
    with pytest.raises(ConfigError, match=r"has no zero_shot_top_1.*It has: image_to_text_recall_at_1"):
        promote(settings("one", metric="zero_shot_top_1", classnames="none"), scenes_store)
    assert find_decision("one", scenes_store) is None


def test_damaged_objects_are_named(scenes_store: Store):
    scenes_store.write(layout.promoted("best"), b"[]")
    with pytest.raises(DataError, match="The promoted run cannot be read"):
        find_promoted("best", scenes_store)
    scenes_store.write(layout.promotion("one"), b"[]")
    with pytest.raises(DataError, match="no decision about a run"):
        find_decision("one", scenes_store)
