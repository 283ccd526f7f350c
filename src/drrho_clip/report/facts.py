"""What the page says in words: what was run, on which data, and what is not there (yet)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drrho_clip.report.results import Results, RunResult
from drrho_clip.report.text import as_text, readable

if TYPE_CHECKING:
    from drrho_clip.data.manifest import Manifest


@dataclass(frozen=True)
class DatasetFacts:
    """What the page says about a dataset: samples per split, what was rejected or converted, and how it was made."""

    name: str
    version: int
    identity: str
    splits: Sequence[tuple[str, str]]
    counts: Sequence[tuple[str, str]]
    source: Sequence[tuple[str, str]]
    notice: str


def dataset_facts(manifest: Manifest) -> DatasetFacts:
    """Collect what the page says about a dataset."""
    splits = [(split, f"{count:,}") for split, count in manifest.splits.items()]
    exchanged = [("captions exchanged", f"{manifest.exchanged:,}")] if manifest.exchanged else []
    failed = [(f"rejected: {readable(reason)}", f"{failure.count:,}") for reason, failure in manifest.failed.items()]
    converted = [(f"converted to RGB: {readable(mode)}", f"{count:,}") for mode, count in manifest.converted.items()]
    return DatasetFacts(
        manifest.name,
        manifest.version,
        manifest.id,
        [*splits, ("all", f"{manifest.total:,}"), *exchanged],
        failed + converted,
        [(readable(key), as_text(value)) for key, value in manifest.source.items()],
        readable(manifest.notice),
    )


def missing(results: Results) -> Iterator[str]:
    """Yield a sentence for everything that the runs and their references do not have (yet)."""
    where = f"split '{results.split}' of '{results.dataset}'"
    for run in results.runs:
        if not run.finished:
            yield f"Run '{run.name}' has not finished training: its records so far are shown."
        if not run.evaluation:
            yield f"Run '{run.name}' has no evaluation on {where}: `drrho evaluate` makes one."
        if not run.reference:
            yield f"Run '{run.name}' has no reference, so that its Var(l − l_ref) is not known."
        if run.metrics.unreadable:
            yield f"{run.metrics.unreadable} unreadable lines in the records of run '{run.name}' were left out."
    for reference in results.references:
        if not reference.evaluation:
            yield f"Reference '{reference.name}' has no evaluation on {where}."


def run_labels(runs: Sequence[RunResult]) -> dict[str, str]:
    """A short label per run name: its method, with the run's name where several runs share it."""
    repeated = Counter(run.title for run in runs)
    return {run.name: run.title if repeated[run.title] == 1 else f"{run.title} ({run.name})" for run in runs}


def settings(runs: Sequence[RunResult]) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """The settings that all runs share, and those in which they differ (a value per run, "" where it has none)."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key != "run")
    values = {key: [as_text(run.config.get(key)) for run in runs] for key in keys}
    same = [(readable(key), texts[0]) for key, texts in values.items() if len(set(texts)) == 1]
    different = [(readable(key), texts) for key, texts in values.items() if len(set(texts)) > 1]
    return same, different


def run_facts(runs: Sequence[RunResult]) -> list[tuple[str, list[str]]]:
    """What each run did: (what, a value per run), rows without any value left out."""

    def per_run(key: str, unit: str = "") -> list[str]:
        return [_with_unit(run.summary.get(key, run.config.get(key)), unit) for run in runs]

    rows = [
        ("run", [run.name for run in runs]),
        ("state", ["finished" if run.finished else "not finished" for run in runs]),
        ("architecture", per_run("architecture")),
        ("reference", [run.reference for run in runs]),
        ("steps", per_run("steps")),
        ("samples seen", per_run("samples_seen")),
        ("time", [_duration(run.summary.get("seconds")) for run in runs]),
        ("samples / s", per_run("samples_per_second")),
    ]
    return [(what, values) for what, values in rows if any(values)]


def _with_unit(value: Any, unit: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}{unit}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}{unit}"
    return as_text(value)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
