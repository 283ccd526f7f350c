"""What the page says in words: what was run, on which data, and what is not there (yet)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drrho_clip.errors import ConfigError
from drrho_clip.method import METHODS
from drrho_clip.report.results import ReferenceResult, Results, RunResult, is_number
from drrho_clip.report.text import as_text, duration, readable, shorten
from drrho_clip.training.config import TrainConfig

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
    models: list[RunResult | ReferenceResult] = [*results.runs, *results.references]
    lacking: dict[str, Sequence[RunResult | ReferenceResult]] = {
        "No settings (config.yaml)": [run for run in results.runs if not run.config],
        "No records of training (metrics.jsonl)": [run for run in results.runs if not run.metrics.records],
        "Not finished, shown as far as it has come": [run for run in results.runs if not run.finished],
        f"Not evaluated on {where} (`drrho evaluate` does it)": [model for model in models if not model.evaluation],
    }
    yield from (f"{what}: {', '.join(model.name for model in names)}." for what, names in lacking.items() if names)
    if unsteered := sum(not run.reference for run in results.runs):
        count = f"{unsteered} of {len(results.runs)} runs" if len(results.runs) > 1 else "the run"
        yield f"Var(l − l_ref) is not known: {count} trained without reference features."
    for run in results.runs:
        if run.metrics.unreadable:
            yield f"{run.metrics.unreadable} lines in the records of run '{run.name}' cannot be read and were left out."
    evaluations = [model.evaluation for model in models if model.evaluation]
    if len({evaluation.shards_id for evaluation in evaluations}) > 1:
        yield f"The models were evaluated on different versions of {where}: their scores cannot be compared."
    absent = [(one.zero_shot_absent or "it was not measured", one.name) for one in evaluations if one.zero_shot is None]
    for reason in dict.fromkeys(reason for reason, _ in absent):
        names = ", ".join(f"'{name}'" for why, name in absent if why == reason)
        yield f"No zero-shot accuracy of {names}: {reason}."


def measured_on(results: Results) -> str:
    """What the scores of the runs were measured on, with the numbers of pictures, captions and classes."""
    where = f"Split {results.split} of {results.dataset or 'an unknown dataset'}"
    found = next((run.evaluation for run in results.runs if run.evaluation), None)
    if found is None:
        return where
    counts = found.retrieval
    classes = f"; {found.zero_shot.classes:,} classes" if found.zero_shot else ""
    return (
        f"{where}: {counts.images:,} pictures against {counts.candidate_captions:,} captions, "
        f"{counts.captions:,} captions against {counts.candidate_images:,} pictures{classes}"
    )


def run_labels(runs: Sequence[RunResult]) -> dict[str, str]:
    """A short label per run name: its method, with the run's name where several runs share it."""
    repeated = Counter(run.title for run in runs)
    return {run.name: run.title if repeated[run.title] == 1 else f"{run.title} ({run.name})" for run in runs}


def settings(runs: Sequence[RunResult]) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """The settings that all runs share, and those in which they differ (a value per run, "" where it has none)."""
    configs = [effective_settings(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key != "run")
    values = {key: [as_text(config.get(key)) for config in configs] for key in keys}
    same = [(readable(key), texts[0]) for key, texts in values.items() if len(set(texts)) == 1]
    different = [(readable(key), texts) for key, texts in values.items() if len(set(texts)) > 1]
    return same, different


def effective_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, with the method's own values where the run left them to it; unchanged if this version does not know them."""
    try:
        method = TrainConfig.parse(config).objective().model_dump()
    except ConfigError:
        return config
    others = {name: None for kind in METHODS.values() for name in kind.model_fields if name in config}
    return {**config, **others, **method}


def run_facts(runs: Sequence[RunResult]) -> list[tuple[str, list[str]]]:
    """What each run did: (what, a value per run), rows without any value left out."""

    def per_run(key: str) -> list[str]:
        return [as_text(_rounded(run.summary.get(key))) for run in runs]

    rows = [
        ("run", [run.name for run in runs]),
        ("state", ["finished" if run.finished else "not finished" for run in runs]),
        ("architecture", [as_text(run.summary.get("architecture", run.config.get("architecture"))) for run in runs]),
        ("reference", [run.reference for run in runs]),
        ("steps", per_run("steps")),
        ("samples seen", per_run("samples_seen")),
        ("time", [_duration(run) for run in runs]),
        ("samples / s", per_run("samples_per_second")),
        ("temperature at the end", per_run("temperature")),
        ("processes", per_run("world_size")),
        ("device", per_run("device")),
        ("versions", [_versions(run.summary.get("versions")) for run in runs]),
    ]
    return [(what, values) for what, values in rows if any(values)]


def reference_facts(reference: ReferenceResult) -> list[tuple[str, str]]:
    """The model behind a reference."""
    known = {key.replace("_", " "): value for key, value in reference.identity.items()}
    return [(readable(key), shorten(as_text(_rounded(value)), 32)) for key, value in known.items()]


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _versions(versions: Any) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items()) if isinstance(versions, Mapping) else ""


def _duration(run: RunResult) -> str:
    seconds = run.summary.get("seconds")
    return duration(seconds) if is_number(seconds) else ""
