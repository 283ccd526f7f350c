"""What a run left in the store, read for showing: whatever is missing stays empty, because a report is also wanted half-way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeGuard

import yaml
from pydantic import ValidationError

from drrho_clip.errors import DataError, ObjectMissing, nearest
from drrho_clip.evaluation.results import Evaluation
from drrho_clip.storage import Store, layout

METHOD_TITLES = {
    "openclip": "OpenCLIP",
    "fastclip": "FastCLIP",
    "drrho": "DRRho-CLIP",
    "drrho_cvar": "DRRho-CLIP (CVaR)",
    "rho_topk": "RHO top-k",
    "jest": "JEST",
    "jest_topk": "JEST top-k",
    "distillation": "Distillation",
    "fastclip_distillation": "FastCLIP + distillation",
    "drrho_distillation": "DRRho-CLIP + distillation",
}


@dataclass(frozen=True)
class Metrics:
    """The records of metrics.jsonl by step: each step once (a resumed run writes some again), only finite numbers."""

    records: tuple[Mapping[str, float], ...] = ()
    unreadable: int = 0

    def series(self, key: str, *, against: str = "step") -> list[tuple[float, float]]:
        """(value of `against`, value of `key`) of every record that has both."""
        return [(record[against], record[key]) for record in self.records if key in record and against in record]

    def late_mean(self, *keys: str, share: float = 0.1) -> float | None:
        """Mean over the last `share` of the records that have a key (at least one), averaged over `keys`; None where none has."""
        means = []
        for key in keys:
            values = [record[key] for record in self.records if key in record]
            tail = values[-max(1, int(share * len(values))) :]
            means += [sum(tail) / len(tail)] if tail else []
        return sum(means) / len(means) if means else None


@dataclass(frozen=True)
class RunResult:
    """One run: settings, summary, records and evaluation, each empty where the run has none (yet)."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    evaluation: Evaluation | None = None

    @property
    def method(self) -> str:
        """The method's name in the registry, "" where it is not known."""
        return str(self.summary.get("method") or self.config.get("method") or "")

    @property
    def title(self) -> str:
        """The method as it is called in print."""
        return METHOD_TITLES.get(self.method, self.method or self.name)

    @property
    def dataset(self) -> str:
        """The dataset that the run was trained on."""
        return str(self.summary.get("dataset") or self.config.get("dataset") or "")

    @property
    def reference(self) -> str:
        """Name of the reference's features, "" for none."""
        return str(self.summary.get("reference") or self.config.get("reference") or "")

    @property
    def finished(self) -> bool:
        """Whether training has published its summary."""
        return bool(self.summary)


@dataclass(frozen=True)
class ReferenceResult:
    """One reference: the model behind it, its evaluation, and the summary of its training where it is one of our runs."""

    name: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Everything that a table or a page shows, and the keys of the objects it was read from."""

    dataset: str
    split: str
    runs: tuple[RunResult, ...]
    references: tuple[ReferenceResult, ...]
    sources: tuple[str, ...]


def load_results(store: Store, runs: Sequence[str], *, dataset: str = "", split: str = "heldout") -> Results:
    """Read `runs` and their references, evaluated on `split` of `dataset` ("" = what the first run was trained on).

    Raises DataError, with the runs there are, where one of them does not exist.
    """
    reader = _Reader(store)
    loaded = [_load_run(reader, name) for name in runs]
    dataset = dataset or next((run.dataset for run in loaded if run.dataset), "")
    if dataset:
        loaded = [_with_evaluation(reader, run, dataset, split) for run in loaded]
    names = dict.fromkeys((run.dataset, run.reference) for run in loaded if run.reference and run.dataset)
    references = tuple(_load_reference(reader, home, name, dataset, split) for home, name in names)
    return Results(dataset, split, tuple(loaded), references, tuple(reader.found))


class _Reader:
    """Reads objects that may not exist, and remembers which did."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.found: list[str] = []

    def text(self, key: str) -> str | None:
        try:
            data = self.store.read(key)
        except ObjectMissing:
            return None
        self.found.append(key)
        return data.decode("utf-8", errors="replace")

    def mapping(self, key: str) -> dict[str, Any]:
        """The JSON or YAML mapping under `key`, {} where there is none."""
        text = self.text(key)
        if text is None:
            return {}
        try:
            value = yaml.safe_load(text) if key.endswith(".yaml") else json.loads(text)
        except (ValueError, yaml.YAMLError) as error:
            raise _damaged(self.store.uri_of(key), str(error)) from None
        if not isinstance(value, dict):
            raise _damaged(self.store.uri_of(key), f"it holds a {type(value).__name__}, not a mapping")
        return value

    def evaluation(self, key: str) -> Evaluation | None:
        """The evaluation under `key`, None where there is none."""
        text = self.text(key)
        try:
            return Evaluation.model_validate_json(text) if text is not None else None
        except ValidationError as error:
            raise _damaged(self.store.uri_of(key), str(error.errors()[0]["msg"])) from None


def _damaged(where: str, reason: str) -> DataError:
    return DataError(f"This object cannot be read: {reason}", where=where, fix="Delete it and run the step that wrote it again.")


def _load_run(reader: _Reader, name: str) -> RunResult:
    config = reader.mapping(layout.run_config(name))
    summary = reader.mapping(layout.run_summary(name))
    metrics = reader.text(layout.run_metrics(name))
    if not config and not summary and metrics is None:
        raise _unknown_run(reader.store, name)
    return RunResult(name, config, summary, parse_metrics((metrics or "").splitlines()))


def _unknown_run(store: Store, name: str) -> DataError:
    known = {info.key.split("/")[1] for info in store.list("runs/")}
    fix = nearest(name, known) if known else "There is no run yet: train one first."
    return DataError(f"There is no run '{name}'", where=store.uri_of(layout.run(name)), fix=fix)


def _with_evaluation(reader: _Reader, run: RunResult, dataset: str, split: str) -> RunResult:
    return replace(run, evaluation=_evaluation(reader, partial(layout.evaluation, run.name, dataset), split))


def _evaluation(reader: _Reader, key_of: Callable[[str], str], split: str) -> Evaluation | None:
    """The evaluation on `split`; one without classification (classnames = none) stands in for it."""
    return reader.evaluation(key_of(split)) or reader.evaluation(key_of(f"{split}-none"))


def _load_reference(reader: _Reader, home: str, name: str, dataset: str, split: str) -> ReferenceResult:
    """`home` is the dataset that the features belong to; a reference is only evaluated there."""
    identity = reader.mapping(layout.reference_manifest(home, name)).get("identity") or {}
    evaluation = _evaluation(reader, partial(layout.reference_evaluation, home, name), split) if home == dataset else None
    summary: Mapping[str, Any] = {}
    if (spec := str(identity.get("spec", ""))).startswith("run:"):
        trained = spec.removeprefix("run:")
        summary = reader.mapping(layout.run_summary(trained))
        evaluation = evaluation or _evaluation(reader, partial(layout.evaluation, trained, dataset), split)
    return ReferenceResult(name, identity, evaluation, summary)


def parse_metrics(lines: Iterable[str]) -> Metrics:
    """Read the lines of metrics.jsonl; lines that are no record (a write cut short) are counted and left out."""
    by_step: dict[float, Mapping[str, float]] = {}
    unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not is_number(record.get("step")):
            unreadable += 1
            continue
        by_step[record["step"]] = {key: value for key, value in record.items() if is_number(value)}
    return Metrics(tuple(by_step[step] for step in sorted(by_step)), unreadable)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
