"""A run's whole config, composed of the rooms' own: what a YAML file, flags and --set say, as one frozen object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from drrho_clip.data.config import IngestConfig
from drrho_clip.errors import ConfigError, nearest
from drrho_clip.evaluation.config import EvaluateConfig
from drrho_clip.method import METHODS
from drrho_clip.reference.config import ReferenceConfig
from drrho_clip.report.config import ReportConfig
from drrho_clip.schema import Config
from drrho_clip.studies.config import StudyConfig
from drrho_clip.training.config import TrainConfig

HANDED_DOWN: Mapping[str, tuple[str, ...]] = {
    "dataset": ("ingest.dataset", "reference.dataset", "train.dataset", "evaluate.dataset", "report.dataset"),
    "run": ("train.run", "evaluate.run", "report.runs"),
}
"""What is written once, and the settings of the steps that take it unless they say something else."""


SECTIONS: Mapping[str, type[Config]] = {
    "ingest": IngestConfig,
    "reference": ReferenceConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "study": StudyConfig,
}
"""The steps' own configs, by the name of their section."""


SMALL: Mapping[str, Any] = {
    "architecture": "drrho-small",
    "batch_size": 128,
    "samples": 128_000,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup_steps": 50,
    "temperature": 0.1,
    "gamma_min": 0.6,
    "augmentation": "shift",
}
"""Training that a CPU does in minutes; the defaults of `train` are the published ones, for many GPUs and millions of samples.
A temperature of 0.01 is for thousands of negatives: with a hundred, a few of them would get all the weight."""


class RunConfig(Config):
    """Everything about one run. `dataset` and `run` are handed down to the steps, and so is the name of the reference.

    `reference` is None where no model is set, or where its section says nothing and the method does without.
    """

    store: str = Field("store", description="Where everything is kept: a folder or s3://bucket/prefix")
    dataset: str = Field("openmoji", description="Name of the dataset in the store")
    run: str = Field("drrho", description="Name of the training run in the store")
    ingest: IngestConfig
    reference: ReferenceConfig | None
    train: TrainConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    study: StudyConfig

    @model_validator(mode="before")
    @classmethod
    def _hand_down(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        sections = {name: _section(values, name) for name in SECTIONS}
        reference = _reference_id(sections)
        everything: dict[str, Any] = {**values, **sections}
        if reference is None:
            everything["reference"] = None
        elif isinstance(sections["train"], dict):
            sections["train"].setdefault("reference", reference)
        evaluate, report = sections["evaluate"], sections["report"]
        if isinstance(evaluate, dict) and (evaluate.get("model") or evaluate.get("reference")):
            evaluate.setdefault("run", "")  # exactly one of the three is evaluated
        if isinstance(report, dict):
            report.setdefault("split", _evaluation_label(evaluate))
        for shared, targets in HANDED_DOWN.items():
            value = values.get(shared, cls.model_fields[shared].default)
            if not isinstance(value, str):
                continue  # refused once, not once per step
            for section, key in (target.split(".") for target in targets):
                if isinstance(sections[section], dict):
                    sections[section].setdefault(key, value)
        return everything


def load_config(
    path: Path | None,
    assignments: Iterable[str] = (),
    *,
    given: Mapping[str, Any] | None = None,
    section: str = "",
) -> RunConfig:
    """Read a YAML file (None = defaults only), then apply `given` (by dotted key) and `assignments` ("train.seed=1").

    Keys of assignments without a dot belong to `section`, unless the run itself has them (`store`, `dataset`, `run`). Raises
    ConfigError that says what is wrong, where, and the nearest names; nothing is read or written besides the file.
    """
    values = read_yaml(path) if path else {}
    for key, value in (given or {}).items():
        _put(values, key, value)
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"'{assignment}' sets nothing", where="--set", fix="Write it as --set train.batch_size=128.")
        key = key.strip()
        if section and "." not in key and (key in SECTIONS or key not in RunConfig.model_fields):
            key = f"{section}.{key}"
        _put(values, key, value.strip())
    return RunConfig.parse(values, where=str(path) if path else "")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping; every scalar stays text, so that its meaning is the setting's (`no`, `1e-4`), not YAML's guess."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # builds text only
    except FileNotFoundError:
        raise ConfigError("There is no such config file", where=str(path), fix="`drrho init` writes one.") from None
    except UnicodeDecodeError:
        raise ConfigError("The config file is no UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise ConfigError(f"The config file cannot be read: {error.strerror}", where=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"The config file is no YAML: {problem}", where=f"{path}{line}") from None
    if values in (None, ""):
        return {}
    if not isinstance(values, dict):
        raise ConfigError("The config file holds no settings, but a " + type(values).__name__, where=str(path))
    return values


def _section(values: Mapping[str, Any], name: str) -> Any:
    """One step's settings as a new dict, or its config as it is; ConfigError where something else stands there."""
    section = values.get(name)
    if section in (None, ""):
        return {}
    if not isinstance(section, Mapping | Config):
        raise ConfigError(f"The section '{name}' holds no settings, but {section!r}", fix="Write them below it, indented.")
    return dict(section) if isinstance(section, Mapping) else section


def _reference_id(sections: Mapping[str, Any]) -> str | None:
    """The name of the reference's features, or None where the run has no reference."""
    reference, train = sections["reference"], sections["train"]
    if isinstance(reference, ReferenceConfig):
        return reference.reference_id
    model = str(reference.get("model", ReferenceConfig.model_fields["model"].default))
    method = METHODS.get(str(train.get("method", TrainConfig.model_fields["method"].default) if isinstance(train, dict) else ""))
    asked_for = "model" in reference or "name" in reference or (method is not None and method.needs_reference)
    if not model or not asked_for:
        return None
    return ReferenceConfig.model_construct(model=model, name=str(reference.get("name", ""))).reference_id


def _evaluation_label(evaluate: Any) -> str:
    """What the report calls the evaluation that the run will have."""
    if isinstance(evaluate, EvaluateConfig):
        return evaluate.label
    texts = {key: str(evaluate[key]) for key in ("split", "candidates", "classnames") if key in evaluate}
    return EvaluateConfig.model_construct(**texts).label  # type: ignore[arg-type]


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; ConfigError where its section is none."""
    first, _, rest = key.partition(".")
    if not rest:
        values[first] = value
        return
    if first not in SECTIONS:
        raise ConfigError(f"There is no section '{first}' for '{key}'", fix=nearest(first, SECTIONS))
    values[first] = {**_section(values, first), rest: value}
