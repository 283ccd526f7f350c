from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from pydantic.fields import FieldInfo

from drrho_clip.config import SECTIONS
from drrho_clip.data.manifest import load_manifest
from drrho_clip.schema import Config
from drrho_clip.storage import Store
from drrho_components.evaluate import evaluate
from drrho_components.ingest import ingest
from drrho_components.launch import JobConfig
from drrho_components.reference import reference
from drrho_components.report import report
from drrho_components.steps import fingerprint, settings
from drrho_components.train import train

COMPONENTS: dict[str, Any] = {
    "ingest": ingest,
    "reference": reference,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}
COMMON = {"store", "store_endpoint", "depends_on"}
OWN = {"train": {"launcher", *JobConfig.model_fields}}


def scalar(field: FieldInfo) -> type:
    """The type that a component gives to a setting: kfp knows no Literal."""
    return field.annotation if field.annotation in (int, float, str, bool) else str


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_has_the_settings_of_its_step_with_their_defaults(name: str):
    component, config = COMPONENTS[name], SECTIONS[name]
    parameters = inspect.signature(component.python_func).parameters
    declared = {key: (parameters[key].annotation, parameters[key].default) for key in component.component_spec.inputs}
    for key in COMMON | OWN.get(name, set()):
        declared.pop(key, None)
    assert declared == {key: (scalar(field), field.default) for key, field in config.model_fields.items()}


def test_train_has_the_settings_of_a_job_with_their_defaults():
    parameters = inspect.signature(train.python_func).parameters
    declared = {key: (parameters[key].annotation, parameters[key].default) for key in JobConfig.model_fields}
    assert declared == {
        key: (int if isinstance(field.default, int) else str, field.default) for key, field in JobConfig.model_fields.items()
    }


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_needs_nothing_but_the_store(name: str):
    required = [key for key, given in COMPONENTS[name].component_spec.inputs.items() if not given.optional]
    assert required == ["store"]


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


def test_reference_without_a_model_has_nothing_to_do(folder_store: Store, tmp_path: Path):
    given = artifact(dsl.Artifact, tmp_path)
    assert reference.python_func(given, store=folder_store.uri, model="", depends_on="data") == ("", "data")
    assert list(folder_store.list()) == []


BROKEN = {
    "unusable settings": (ingest, {"source": "scenes", "samples": 1.5}, "'samples'"),
    "no dataset": (train, {"method": "openclip"}, "There is no dataset 'openmoji'"),
    "no launcher": (train, {"method": "openclip", "launcher": "torchrun"}, "There is no launcher 'torchrun'"),
    "nothing to evaluate": (evaluate, {}, "set exactly one of run, model and reference"),
    "no run": (report, {"runs": "none"}, "none"),
    "endpoint with a password": (ingest, {"store_endpoint": "http://me:secret@weed:8333"}, "Kubernetes secret"),
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
    with pytest.raises(SystemExit) as end:
        component.python_func(artifact(dsl.Artifact, tmp_path), store=folder_store.uri, **arguments)
    assert end.value.code == 2
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["event"], last["component"]) == ("step_failed", component.name)
    assert message in last["error"]
    assert "secret@" not in json.dumps(last)


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
