"""The scaling laws of a study: one per method, fitted to its runs of all sizes and budgets (arXiv 2505.06699, figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from drrho_clip.errors import DataError
from drrho_clip.models.flops import flops_per_sample
from drrho_clip.schema import Config
from drrho_clip.studies.config import StudyConfig
from drrho_clip.studies.matrix import Arm
from drrho_clip.studies.scaling_law import Interval, Law, Point, fit_law, interval_of


class Prediction(Config):
    """The error that a law expects of a compute in GFLOPs, and its interval where the runs are enough for one."""

    compute: float
    error: float
    interval: Interval | None


class LawResult(Config):
    """The law of one method: error = irreducible + a * compute^b; `problem` says why there is none."""

    label: str
    is_baseline: bool
    problem: str = ""
    a: float = 0.0
    b: float = 0.0
    irreducible: float = 0.0
    a_interval: Interval | None = None
    b_interval: Interval | None = None
    steeper: Interval | None = None
    """Interval of the baseline's exponent minus this one: above 0, this law falls faster."""
    used: tuple[Point, ...] = ()
    left_out: tuple[Point, ...] = ()
    predictions: tuple[Prediction, ...] = ()

    def error(self, compute: float) -> float:
        """The error at a compute in GFLOPs."""
        return float(self.irreducible + self.a * compute**self.b)


def fit_laws(
    arms: Sequence[tuple[Arm, Sequence[Mapping[str, float]]]], study: StudyConfig, architectures: Mapping[str, str]
) -> tuple[LawResult, ...]:
    """The laws of all methods; `arms` with the values of their runs, `architectures` by the arms' names.

    The error of a run is one minus the study's measure, its compute the FLOPs of a forward pass times the samples seen.
    """
    gflops = {name: flops_per_sample(name) / 1e9 for name in dict.fromkeys(architectures.values())}
    groups: dict[str, list[Point]] = {}
    for arm, runs in arms:
        compute = [gflops[architectures[arm.name]] * run["samples_seen"] for run in runs]
        groups.setdefault(method_label(arm), []).extend(
            Point(label=arm.label, compute=at, error=1 - run[study.measure]) for at, run in zip(compute, runs, strict=True)
        )
    baseline = next((method_label(arm) for arm, _ in arms if arm.is_baseline), "")
    return tuple(_laws(groups, baseline, study))


def method_label(arm: Arm) -> str:
    """The part of an arm's label that names the method, and its reference where there are several."""
    return arm.label.partition(";")[0]


def _laws(groups: Mapping[str, Sequence[Point]], baseline: str, study: StudyConfig) -> Iterator[LawResult]:
    found: dict[str, Law | str] = {label: _fitted(points, study) for label, points in groups.items()}
    reference = found.get(baseline)
    for label, law in found.items():
        if isinstance(law, str):
            yield LawResult(label=label, is_baseline=label == baseline, problem=law)
            continue
        compared = isinstance(reference, Law) and label != baseline
        yield LawResult(
            label=label,
            is_baseline=label == baseline,
            a=law.curve.a,
            b=law.curve.b,
            irreducible=law.curve.irreducible,
            a_interval=law.interval("a"),
            b_interval=law.interval("b"),
            steeper=_steeper(law, reference) if compared and isinstance(reference, Law) else None,
            used=law.used,
            left_out=law.left_out,
            predictions=tuple(_predict(law, compute) for compute in study.predicted_computes),
        )


def _fitted(points: Sequence[Point], study: StudyConfig) -> Law | str:
    try:
        return fit_law(points, irreducible=study.irreducible)
    except DataError as error:
        return str(error)


def _steeper(law: Law, baseline: Law) -> Interval | None:
    if not (law.resampled and baseline.resampled):
        return None
    own, others = (np.array([curve.b for curve in one.resampled]) for one in (law, baseline))
    return interval_of((others - own).tolist())


def _predict(law: Law, compute: float) -> Prediction:
    error, interval = law.predict(compute)
    return Prediction(compute=compute, error=error, interval=interval)
