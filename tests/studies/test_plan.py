"""The plan of a study: published once, and refused where anything has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.errors import ConfigError, DrrhoError
from drrho_clip.storage import Store, layout
from drrho_clip.studies.cell import run_cell
from drrho_clip.studies.plan import LATEST, MATRIX, Plan, load_plan, revision

PlanIn = Callable[..., Plan]


def test_a_plan_holds_the_dataset_the_cells_and_what_they_share(scenes_store: Store, plan_in: PlanIn):
    plan = plan_in(scenes_store)
    written = json.loads(scenes_store.read("studies/scenes-comparison/plan.json"))
    assert (written["dataset"], written["dataset_version"], written["kind"]) == ("scenes", 1, "comparison")
    assert [cell.run for cell in plan.cells] == [
        f"scenes-comparison-{method}-s{seed}" for seed in (0, 1) for method in ("fastclip", "drrho")
    ]
    config = plan.training(plan.cells[3])
    assert (config.run, config.method, config.seed) == ("scenes-comparison-drrho-s1", "drrho", 1)
    assert (config.dataset_version, config.reference, config.samples) == (1, "ref", 96)
    assert (config.checkpoint_steps, config.keep_checkpoint_every) == (1, 1)  # of 3 steps, one on the way
    assert load_plan("scenes-comparison", scenes_store) == plan == plan_in(scenes_store)


def test_checkpoints_of_a_curve_do_not_come_more_seldom_than_was_asked(scenes_store: Store, plan_in: PlanIn):
    plan = plan_in(scenes_store, train={"samples": 32 * 1000, "checkpoint_steps": 90}, curve_points=3)
    config = plan.training(plan.cells[0])
    assert (config.checkpoint_steps, config.keep_checkpoint_every) == (83, 249)


def test_of_several_that_plan_at_once_all_have_one_plan(scenes_store: Store, plan_in: PlanIn):
    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(lambda _: plan_in(scenes_store), range(4)))
    assert len({plan.model_dump_json() for plan in plans}) == 1


def test_of_several_studies_that_take_one_name_at_once_one_has_it(scenes_store: Store, plan_in: PlanIn):
    def attempt(seeds: str) -> str:
        try:
            return plan_in(scenes_store, name="mine", seeds=seeds).study.seeds
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, ("0", "1")))
    winner = load_plan("mine", scenes_store).study.seeds
    assert winner in outcomes
    assert sum("exists with other settings" in outcome for outcome in outcomes) == 1


CHANGED = {
    "fewer seeds": ({"seeds": "0"}, "study.seeds: '0,1' there, '0' here"),
    "another method": (
        {"methods": "fastclip,distillation,openclip"},
        "study.methods: 'fastclip,drrho' there, 'fastclip,distillation,openclip' here",
    ),
    "a setting of a method": ({"settings": "drrho.eps=0.5"}, "study.settings: '' there, 'drrho.eps=0.5' here"),
    "another seed, and something else": (
        {"seeds": "0,1,2", "curve_points": 2},
        "study.curve_points: 1 there, 2 here",
    ),
    "a setting of the trainings": ({"train": {"samples": 128}}, "train.samples: 96 there, 128 here"),
    "which checkpoints there are": ({"train": {"checkpoint_steps": 2}}, "train.checkpoint_steps: 1000 there, 2 here"),
}


@pytest.mark.parametrize(("changed", "message"), CHANGED.values(), ids=CHANGED)
def test_other_settings_under_the_same_name_are_refused(
    changed: dict[str, object], message: str, scenes_store: Store, plan_in: PlanIn
):
    plan_in(scenes_store)
    with pytest.raises(ConfigError) as refused:
        plan_in(scenes_store, **changed)
    assert f"The study 'scenes-comparison' exists with other settings ({message})" in str(refused.value)


def test_a_study_may_grow(scenes_store: Store, plan_in: PlanIn):
    first = plan_in(scenes_store)
    grown = plan_in(scenes_store, seeds="0,1,2", methods="fastclip,drrho,distillation", settings="distillation.temperature=0.2")
    assert set(grown.cells) - set(first.cells) == {
        *(cell for cell in grown.cells if cell.arm == "distillation" or cell.seed == 2)
    }
    assert [grown.training(cell) for cell in first.cells] == [first.training(cell) for cell in first.cells]
    assert grown.created == first.created
    assert load_plan("scenes-comparison", scenes_store) == grown


def test_what_a_study_would_grow_by_is_checked_first(scenes_store: Store, plan_in: PlanIn):
    first = plan_in(scenes_store)
    with pytest.raises(ConfigError, match="learning_rate"):
        plan_in(scenes_store, methods="fastclip,drrho,jest", settings="jest.learning_rate=0")
    assert load_plan("scenes-comparison", scenes_store) == first


def test_what_changes_no_result_may_differ_and_the_newest_is_taken(scenes_store: Store, plan_in: PlanIn):
    first = plan_in(scenes_store)
    train = {"workers": 2, "cache_path": "/tmp/cache", "cache_gib": 3, "log_steps": 7, "metrics_port": 9000}
    train |= {"keep_checkpoints": 4, "collective_timeout": 60, "u_home": "shared", "u_path": "/tmp"}
    report = {"measure": "mean_recall_at_1", "predict": "1e6", "irreducible": True}
    evaluate = {"batch_size": 8, "decode_threads": 3}
    second = plan_in(scenes_store, train=train, evaluate=evaluate, **report)
    assert second == load_plan("scenes-comparison", scenes_store)
    config = second.training(second.cells[0])
    assert {key: getattr(config, key) for key in train} == train
    assert {key: getattr(second.study, key) for key in report} == report
    assert {key: getattr(second.evaluate, key) for key in evaluate} == evaluate
    assert (second.cells, second.created) == (first.cells, first.created)
    with pytest.raises(ConfigError, match=r"train\.samples: 96 there, 128 here"):
        plan_in(scenes_store, train={"samples": 128, "workers": 4})
    assert load_plan("scenes-comparison", scenes_store) == second


def test_what_may_differ_are_settings(scenes_store: Store, plan_in: PlanIn):
    plan = plan_in(scenes_store)
    assert all(keys <= type(getattr(plan, section)).model_fields.keys() for section, keys in LATEST.items())
    assert type(plan.study).model_fields.keys() >= MATRIX


def test_a_name_that_another_kind_of_study_has_is_refused(scenes_store: Store, plan_in: PlanIn):
    plan_in(scenes_store, name="mine")
    with pytest.raises(ConfigError, match="The name 'mine' belongs to another study: a comparison"):
        plan_in(scenes_store, "data_efficiency", name="mine", fractions="0.5,1")


def test_a_dataset_that_has_grown_meanwhile_is_refused_with_both_versions(scenes_store: Store, plan_in: PlanIn):
    plan = plan_in(scenes_store)
    grown = {"dataset": "scenes", "source": "scenes", "samples": 430, "image_size": 32, "shard_samples": 90, "workers": 1}
    ingest(IngestConfig.parse(grown), scenes_store)
    message = "was planned on version 1 of 'scenes', which is now at version 2"
    with pytest.raises(ConfigError, match=message):
        run_cell(plan, plan.cells[0].run, scenes_store)
    with pytest.raises(ConfigError, match=message):
        plan_in(scenes_store)


REFUSED = {
    "a measure without classes": (
        {"measure": "zero_shot_top_1", "evaluate": {"classnames": "none"}},
        "There will be no zero_shot_top_1: not asked for",
    ),
    "unknown reference": ({"references": "nothere"}, "No reference 'nothere' for this dataset"),
    "unknown setting": ({"settings": "drrho.tau=1"}, "unknown key 'tau'"),
    "a setting out of its limits": ({"settings": "drrho.learning_rate=0"}, "'learning_rate'"),
    "a share with too little data": (
        {"kind": "data_efficiency", "fractions": "0.05,1"},
        "batch",
    ),
    "a name that is none": ({"name": "a/b"}, "'a/b' cannot be the name of a study"),
    "no weak architecture": ({"kind": "weak_to_strong"}, "Set weak_architecture to one that is smaller than drrho-nano"),
    "not smaller": (
        {"kind": "weak_to_strong", "weak_architecture": "drrho-tiny"},
        "The reference is not smaller than the target",
    ),
    "not on less": (
        {"kind": "weak_to_strong", "weak_architecture": "drrho-nano", "weak_samples": 96},
        "A reference that sees 96 samples is not trained on less than the target, which sees 96",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(
    settings: dict[str, str], message: str, scenes_store: Store, plan_in: PlanIn
):
    with pytest.raises(DrrhoError) as refused:
        plan_in(scenes_store, **settings)
    assert message in str(refused.value)
    assert list(scenes_store.list("studies/")) == []


def test_a_cell_is_one_of_its_study(scenes_store: Store, plan_in: PlanIn):
    with pytest.raises(ConfigError, match=r"is none of the study 'scenes-comparison'\. Did you mean scenes-comparison-drrho-s"):
        run_cell(plan_in(scenes_store), "scenes-comparison-drrho-s9", scenes_store)
    with pytest.raises(ConfigError, match="There is no study 'other'"):
        load_plan("other", scenes_store)


def test_an_unreadable_plan_is_said(scenes_store: Store, plan_in: PlanIn):
    scenes_store.write(layout.study_plan("scenes-comparison"), b"{}")
    with pytest.raises(DrrhoError, match="The plan of this study cannot be read"):
        plan_in(scenes_store)


def test_the_revision_is_that_of_the_job_or_of_the_clone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_SHA", "abc123")
    assert revision() == "abc123"
    for name in ("DRRHO_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA"):
        monkeypatch.delenv(name, raising=False)
    assert len(revision()) in (0, 40)
