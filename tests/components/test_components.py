from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_origin

import pytest
from kfp import dsl
from pydantic.fields import FieldInfo

from drrho_clip.config import SECTIONS
from drrho_clip.continual import Decision, LeaseConfig, PromoteConfig, find_promoted
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.manifest import find_manifest, load_manifest
from drrho_clip.reference import ReferenceConfig
from drrho_clip.schema import Config
from drrho_clip.storage import Store, layout
from drrho_clip.storage.lease import take_lease
from drrho_clip.studies import StudyConfig
from drrho_components.arrivals import arrivals
from drrho_components.begin import begin
from drrho_components.cell import cell
from drrho_components.evaluate import evaluate
from drrho_components.ingest import ingest
from drrho_components.launch import JobConfig
from drrho_components.plan import plan
from drrho_components.plan_study import plan_study
from drrho_components.promote import promote
from drrho_components.reference import reference
from drrho_components.report import report
from drrho_components.split import split
from drrho_components.steps import fingerprint, settings, under
from drrho_components.study_report import study_report
from drrho_components.train import train

COMPONENTS: dict[str, Any] = {
    "ingest": ingest,
    "reference": reference,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}
SETTINGS: dict[str, tuple[Any, type[Config]]] = {
    **{name: (component, SECTIONS[name]) for name, component in COMPONENTS.items()},
    "promote": (promote, PromoteConfig),
}
COMMON = {"store", "store_endpoint", "depends_on", "lease"}
OWN = {"train": {"launcher", *JobConfig.model_fields}}


def scalar(field: FieldInfo) -> type:
    """The type that a component gives to a setting: kfp knows no Literal."""
    return field.annotation if field.annotation in (int, float, str, bool) else str


@pytest.mark.parametrize("name", SETTINGS)
def test_a_component_has_the_settings_of_its_step_with_their_defaults(name: str):
    component, config = SETTINGS[name]
    parameters = inspect.signature(component.python_func).parameters
    declared = {key: (parameters[key].annotation, parameters[key].default) for key in component.component_spec.inputs}
    for key in COMMON | OWN.get(name, set()):
        declared.pop(key, None)
    assert declared == {key: (scalar(field), field.default) for key, field in config.model_fields.items()}


GIVEN_BY_A_STUDY = {
    "run",
    "dataset",
    "dataset_version",
    "method",
    "reference",
    "seed",
    "model",
    "suite",
    "suite_data",
    "checkpoints",
}


def test_a_study_has_the_settings_of_its_own_and_of_its_trainings_and_evaluations():
    parameters = inspect.signature(plan_study.python_func).parameters
    declared = {key: (parameters[key].annotation, parameters[key].default) for key in plan_study.component_spec.inputs}
    for prefix, section in {"train": "train", "evaluate": "evaluate"}.items():
        fields = SECTIONS[section].model_fields.items()
        expected = {key: (scalar(field), field.default) for key, field in fields if key not in GIVEN_BY_A_STUDY}
        assert under(prefix, declared) == expected
    own = {key: given for key, given in declared.items() if not key.startswith(("train_", "evaluate_"))}
    assert own.keys() - StudyConfig.model_fields.keys() == {
        "store",
        "store_endpoint",
        "depends_on",
        "dataset",
        "kind",
        "reference",
    }
    assert {key: own[key] for key in StudyConfig.model_fields} == {
        key: (scalar(field), field.default) for key, field in StudyConfig.model_fields.items()
    }


@pytest.mark.parametrize("component", [train, cell], ids=lambda component: component.name)
def test_what_trains_has_the_settings_of_a_job_with_their_defaults(component: Any):
    parameters = inspect.signature(component.python_func).parameters
    given = {key: parameters[key] for key in JobConfig.model_fields}
    declared = {key: (get_origin(one.annotation) or one.annotation, one.default) for key, one in given.items()}
    assert declared == {key: (type(field.default), field.default) for key, field in JobConfig.model_fields.items()}


@pytest.mark.parametrize(
    "component",
    [*COMPONENTS.values(), begin, arrivals, plan, promote, split, plan_study, cell, study_report],
    ids=lambda component: component.name,
)
def test_a_component_needs_nothing_but_the_store(component: Any):
    required = [key for key, given in component.component_spec.inputs.items() if not given.optional]
    assert required == ["store"]


def test_small_components_share_their_defaults_with_the_settings():
    minutes = inspect.signature(begin.python_func).parameters["minutes"].default
    workers = inspect.signature(plan.python_func).parameters["workers"].default
    groups = inspect.signature(split.python_func).parameters["groups"].default
    assert (minutes, workers, groups) == (LeaseConfig().minutes, ReferenceConfig().workers, IngestConfig().groups)


def artifact(kind: type[dsl.Artifact], folder: Path) -> dsl.Artifact:
    return kind(name="a", uri=str(folder / "artifact"), metadata={})


def test_ingest_returns_what_later_steps_are_pinned_to(folder_store: Store, tmp_path: Path):
    found = artifact(dsl.Artifact, tmp_path)
    arguments = {"store": folder_store.uri, "dataset": "s", "source": "scenes", "samples": 20.0, "workers": 1}
    version, data_id = ingest.python_func(found, **arguments)
    manifest = load_manifest(folder_store, "s")
    assert (version, data_id) == (manifest.version, manifest.id)
    assert found.metadata["uri"] == folder_store.uri_of("datasets/s/versions/000001.json")
    assert json.loads(Path(found.path).read_text()) == found.metadata
    assert ingest.python_func(found, **arguments) == (version, data_id)
    grown = ingest.python_func(found, **{**arguments, "samples": 30})
    assert grown[0] == 2
    assert grown[1] != data_id


def test_groups_share_an_ingest(folder_store: Store, tmp_path: Path):
    others = split.python_func(store=folder_store.uri, groups=3.0)
    assert others == [1, 2]
    found = artifact(dsl.Artifact, tmp_path)
    arguments = {"store": folder_store.uri, "dataset": "s", "source": "scenes", "samples": 20, "workers": 1, "shard_samples": 4}
    for group in others:
        assert ingest.python_func(found, **arguments, groups=3, group=group) == (0, "")
        assert find_manifest(folder_store, "s") is None
    version, data_id = ingest.python_func(found, **arguments, groups=3)
    alone = ingest.python_func(found, **{**arguments, "store": str(tmp_path / "alone")})
    assert (version, data_id) == alone


def test_reference_without_a_model_has_nothing_to_do(folder_store: Store, tmp_path: Path):
    given = artifact(dsl.Artifact, tmp_path)
    assert reference.python_func(given, store=folder_store.uri, model="", depends_on="data") == ("", "data")
    assert list(folder_store.list()) == []


BROKEN = {
    "unusable settings": (ingest, {"source": "scenes", "samples": 1.5}, "'samples'"),
    "a group that there is not": (ingest, {"source": "scenes", "group": 3, "groups": 3}, "group 3 of 3: groups count from 0"),
    "no group at all": (ingest, {"source": "scenes", "groups": 0}, "'groups'"),
    "nothing to split into": (split, {"groups": 0}, "'groups'"),
    "no dataset": (train, {"method": "openclip"}, "There is no dataset 'openmoji'"),
    "no launcher": (train, {"method": "openclip", "launcher": "torchrun"}, "There is no launcher 'torchrun'"),
    "nothing to evaluate": (evaluate, {}, "set exactly one of run, model and reference"),
    "no study": (cell, {"cell": "none/none-drrho-s0"}, "There is no study 'none'"),
    "a study of nothing": (plan_study, {"methods": ""}, "methods: give at least one"),
    "a study without data": (plan_study, {"methods": "fastclip"}, "There is no dataset 'openmoji'"),
    "no run": (report, {"runs": "none"}, "none"),
    "endpoint with a password": (ingest, {"store_endpoint": "http://me:secret@weed:8333"}, "Kubernetes secret"),
    "a macro that is not replaced": (train, {"run": "nightly-[[ScheduledTime]]"}, "[[ScheduledTime]], which Kubeflow"),
    "a lease of no time": (begin, {"minutes": 0.0, "holder": "me"}, "'minutes'"),
    "a lease that is lost": (ingest, {"source": "scenes", "samples": 20, "lease": "nightly:me:3600"}, "'other' does"),
    "endpoint without a scheme": (ingest, {"store_endpoint": "weed:8333"}, "'weed:8333' is no endpoint"),
}


@pytest.mark.parametrize(("component", "arguments", "message"), BROKEN.values(), ids=BROKEN)
def test_a_failing_step_says_why_in_one_line_and_exits_with_2(
    component: Any,
    arguments: dict[str, Any],
    message: str,
    folder_store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    take_lease(folder_store, layout.lease("nightly"), "other", 3600)
    artifacts = [] if component in (begin, arrivals, plan, split, plan_study) else [artifact(dsl.Artifact, tmp_path)]
    with pytest.raises(SystemExit) as end:
        component.python_func(*artifacts, store=folder_store.uri, **arguments)
    assert end.value.code == 2
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["event"], last["component"]) == ("step_failed", component.name)
    assert message in last["error"]
    assert "secret@" not in json.dumps(last)


def test_one_execution_at_a_time(folder_store: Store, capsys: pytest.CaptureFixture[str]):
    """The first takes the lease, and may be tried again; the second is told; the step that ends the work gives it back."""
    first = begin.python_func(store=folder_store.uri, run="nightly", holder="first")
    assert first == ("yes", "nightly:first:3600")
    assert begin.python_func(store=folder_store.uri, run="nightly", holder="first") == first
    assert begin.python_func(store=folder_store.uri, run="nightly", holder="second") == ("no", "")
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert last["event"] == "step_skipped"
    assert last["reason"] == "the previous run, first, still works: it holds the lease of 'nightly'"

    asked = {"store": folder_store.uri, "run": "nightly", "dataset": "s", "dataset_version": 1}
    work = arrivals.python_func(**asked, lease=first[1])
    assert work[:3] == ("yes", "nightly-v1", "")
    assert take_lease(folder_store, layout.lease("nightly"), "second", 60).holder == "first"
    decision = Decision(
        name="nightly", run="nightly-v1", promoted=False, why="", dataset_version=1, metric="m", value=0, previous="",
        previous_value=None, margin=0,
    )  # fmt: skip
    folder_store.write("runs/nightly-v1/promotion.json", decision.model_dump_json().encode())
    assert arrivals.python_func(**asked, lease=first[1])[0] == "no"
    assert take_lease(folder_store, layout.lease("nightly"), "second", 60).holder == "second"


def test_promotion_is_recorded_as_metrics_and_gives_the_lease_back(scenes_store: Store, tmp_path: Path):
    given = begin.python_func(store=scenes_store.uri, run="nightly", holder="first")[1]
    metrics = artifact(dsl.Metrics, tmp_path)
    arguments = {"store": scenes_store.uri, "name": "nightly", "run": "ref", "dataset": "scenes", "lease": given}
    assert promote.python_func(metrics, **arguments) == ("yes", "nothing was promoted before")
    found = find_promoted("nightly", scenes_store)
    assert found is not None
    assert metrics.metadata == {"promoted": 1, "mean_recall_at_5": found.value}
    assert take_lease(scenes_store, layout.lease("nightly"), "second", 60).holder == "second"


class Point(Config):
    """A config to try with."""

    count: int = 1
    name: str = ""


@pytest.mark.parametrize(("given", "count"), [(5, 5), (5.0, 5), ("5", 5), ("5.0", 5)])
def test_whole_numbers_are_taken_in_any_form(given: object, count: int):
    assert settings(Point, {"count": given, "store": "x"}).count == count


def test_fingerprints_change_with_the_result():
    assert fingerprint(Point()) == fingerprint(Point(count=1)) != fingerprint(Point(count=2))
    assert fingerprint(Point(), Point()) != fingerprint(Point())
