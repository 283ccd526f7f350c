"""A suite of evaluation tasks: a YAML list, one that comes with the library or one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from drrho_clip.errors import ConfigError, ObjectMissing, nearest
from drrho_clip.evaluation.config import RECALL_KS, TOP_KS, safe_name
from drrho_clip.schema import Config
from drrho_clip.storage import open_store

Kind = Literal["classification", "retrieval", "association"]

SUITES = Path(__file__).parent / "suites"
METRICS: Mapping[str, Kind] = {
    **dict.fromkeys((*(f"top_{k}" for k in TOP_KS), "mean_per_class_recall", "macro_f1"), "classification"),
    **dict.fromkeys((f"worst_group_top_{k}" for k in TOP_KS), "classification"),
    **dict.fromkeys((f"{what}_recall_at_{k}" for what in ("image", "text", "mean") for k in RECALL_KS), "retrieval"),
    "jaccard": "association",
}
"""What tasks can be measured by, and what is done for it: `image_recall` finds pictures by captions, `text_recall` captions."""


class SuiteTask(Config):
    """One task: a published dataset, and the metric that counts."""

    name: str = Field(min_length=1)
    metric: str = "top_1"
    path: str = Field("", description="Folder below the data, or a URI; empty = the name")
    size: int | None = Field(None, ge=1, description="Number of samples; a dataset of another size is refused")
    group: str = Field("", description="For worst_group_*: the column of each sample's .npy, or the key of its .json")
    ignore_groups: tuple[str, ...] = ()
    duplicate_classnames: bool = Field(False, description="The class names are published with some of them twice")
    min_candidates: int = Field(0, ge=0, description="For jaccard: only cues with at least as many candidate pictures")

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"unknown metric. {nearest(metric, METRICS)}")
        return metric

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric.startswith("worst_group") and not self.group:
            raise ValueError(f"task '{self.name}': {self.metric} needs `group`")
        return self

    @property
    def kind(self) -> Kind:
        """What is done for its metric."""
        return METRICS[self.metric]

    @property
    def folder(self) -> str:
        """Where its dataset lies, below the data or as a URI."""
        return self.path or self.name


class Suite(Config):
    """Tasks, and what the mean over all of them is called."""

    name: str = Field(min_length=1)
    mean: str = Field("", description="Name of the mean over all tasks")
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        counts = Counter(safe_name(task.name).lower() for task in self.tasks)
        repeated = [task.name for task in self.tasks if counts[safe_name(task.name).lower()] > 1]
        if repeated:
            raise ValueError(f"tasks need names of their own: {', '.join(repeated)}")
        return self

    def mean_name(self, done: int) -> str:
        """What the mean over `done` of the tasks is called: the suite's own mean is over all of them, or it is another."""
        if done == len(self.tasks):
            return self.mean or f"mean over {done} tasks"
        return f"mean over {done} of {len(self.tasks)} tasks" + (f", not the {self.mean}" if self.mean else "")


def known_suites() -> list[str]:
    """Names of the suites that come with the library."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(suite: str) -> Suite:
    """Return a suite by the name of one that comes with the library, or from a YAML file (a path or URI). Raises ConfigError.

    An entry of `tasks` that is only a name is the task of that name in a suite that comes with the library.
    """
    if suite in known_suites():
        return _parse((SUITES / f"{suite}.yaml").read_text(encoding="utf-8"), suite, {})
    known = {task.name: task.model_dump() for name in known_suites() for task in load_suite(name).tasks}
    return _parse(_read(suite), suite, known)


def _read(location: str) -> str:
    parent, _, name = location.rpartition("/") if "://" in location else (str(Path(location).parent), "", Path(location).name)
    try:
        return open_store(parent).read(name).decode()
    except ObjectMissing:
        raise ConfigError(
            "There is no such suite, neither in the library nor as a file", where=location, fix=nearest(location, known_suites())
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("The suite is no UTF-8 text", where=location) from None


def _parse(text: str, where: str, known: Mapping[str, dict[str, Any]]) -> Suite:
    try:
        values = yaml.load(text, Loader=yaml.BaseLoader)  # builds text only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"The suite is no YAML: {getattr(error, 'problem', error)}", where=f"{where}{line}") from None
    if isinstance(values, list):
        values = {"name": safe_name(Path(where).stem), "tasks": values}
    if not isinstance(values, dict):
        raise ConfigError("The suite holds no tasks", where=where, fix="Write a list of tasks, or a mapping with name and tasks.")
    tasks = values.get("tasks")
    if isinstance(tasks, list):
        values = {**values, "tasks": [_task(entry, where, known) for entry in tasks]}
    return Suite.parse(values, where=where)


def _task(entry: Any, where: str, known: Mapping[str, dict[str, Any]]) -> Any:
    if not isinstance(entry, str):
        return entry
    if entry not in known:
        raise ConfigError(f"There is no task '{entry}'", where=where, fix=nearest(entry, known))
    return known[entry]
