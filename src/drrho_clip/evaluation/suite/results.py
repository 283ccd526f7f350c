"""What a suite found, as it lies in the store."""

from __future__ import annotations

import csv
import io
from typing import Literal

from pydantic import Field

from drrho_clip.evaluation.config import safe_name
from drrho_clip.schema import Config


class GroupScore(Config):
    """One group of a task's samples, and the share of them that is classified right."""

    samples: int
    value: float


class TaskResult(Config):
    """One model on one task: `value` is that of the task's metric, `scores` are all that were measured, as fractions."""

    task: str
    metric: str
    value: float
    scores: dict[str, float]
    groups: dict[str, GroupScore] = Field(default_factory=dict)  # of the task's groups, those that are ignored left out
    samples: int  # pictures; cues for jaccard
    classes: int = 0
    captions: int = 0
    dataset: str  # where it was read
    definition: str
    fingerprint: str  # of task, data, weights and precision: another one makes the result obsolete
    created: str  # UTC, ISO 8601


class ModelScores(Config):
    """One model, or one checkpoint of a run, on every task of the suite that has data."""

    label: str  # final, or the name of a checkpoint
    samples_seen: int | None  # None where only its trainer knows
    weights_sha256: str
    tasks: tuple[TaskResult, ...]

    @property
    def mean(self) -> float:
        """Plain mean of the tasks' values."""
        return sum(task.value for task in self.tasks) / len(self.tasks)


class SuiteResult(Config):
    """Models on a suite. A task without data stands in `missing` and in no mean; `mean_name` says how many are in it."""

    suite: str
    suite_tasks: int
    kind: Literal["run", "model", "reference"]
    name: str
    data: str
    models: tuple[ModelScores, ...]  # in the order of the samples that they have seen
    missing: dict[str, str]  # task: why it was not measured
    mean_name: str

    def scalars(self) -> dict[str, float]:
        """The scores of the last model by stable names: suite_task_metric, and the mean by its own name."""
        last = self.models[-1]
        scores = {f"{self.suite}_{task.task}_{task.metric}": task.value for task in last.tasks}
        return {_key(name): value for name, value in {self.mean_name: last.mean, **scores}.items()}

    def to_csv(self) -> str:
        """One row for each model and task, those without data included, and one with each model's mean."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("model", "samples_seen", "task", "metric", "value", "samples", "missing"))
        for model in self.models:
            start = (model.label, "" if model.samples_seen is None else model.samples_seen)
            for task in model.tasks:
                writer.writerow((*start, task.task, task.metric, task.value, task.samples, ""))
            for name, why in self.missing.items():
                writer.writerow((*start, name, "", "", "", why))
            writer.writerow((*start, self.mean_name, "mean", model.mean, "", ""))
        return text.getvalue()


def _key(name: str) -> str:
    return safe_name(name).replace("-", "_").lower()
