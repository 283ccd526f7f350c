"""The matrix of a study: which trainings it consists of. Pure functions of the settings; nothing is read or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from drrho_clip.errors import ConfigError, nearest
from drrho_clip.method import METHODS
from drrho_clip.report.results import METHOD_TITLES
from drrho_clip.schema import Config
from drrho_clip.studies.config import StudyConfig
from drrho_clip.studies.scaling_law import FEWEST
from drrho_clip.training.config import TrainConfig

MAX_CELLS = 100
"""What a loop of Kubeflow Pipelines starts without trouble: tens of pods at a time, not thousands."""

FIXED = {"run", "dataset", "dataset_version", "split", "data_fraction", "method", "reference", "samples", "seed"}
"""What `settings` cannot change: the study does, or all of its runs have it in common."""


class Arm(Config):
    """What is compared with the others: the runs that differ in their seed alone. `overrides` are settings of TrainConfig."""

    name: str
    label: str
    is_baseline: bool = False
    overrides: dict[str, str | int | float]


class Cell(Config):
    """One training: an arm and a seed."""

    run: str
    arm: str
    seed: int


def comparison(study: StudyConfig, train: TrainConfig) -> Iterator[Arm]:
    """Every method; those that are steered once for every reference. The others take the first, which shows their variances."""
    for method, reference in _methods(study, train):
        yield _arm(study, method, reference, _named(study, method, reference))


def data_efficiency(study: StudyConfig, train: TrainConfig) -> Iterator[Arm]:
    """Every method on every share of the data, at equal samples seen (arXiv 2505.06699, figure 3)."""
    shares = study.fraction_numbers
    if shares[-1] != 1:
        raise ConfigError(
            "The shares of the data lack 1: what the baseline reaches with all of it is what the others are compared with",
            where="study.fractions",
            fix=f"Write {study.fractions},1.",
        )
    for method, reference in _methods(study, train):
        name, label = _named(study, method, reference)
        for share in shares:
            arm = _arm(study, method, reference, (f"{name}-{share:g}", f"{label}, {100 * share:g}% of the data"))
            yield arm.model_copy(
                update={"overrides": {**arm.overrides, "data_fraction": share}, "is_baseline": arm.is_baseline and share == 1}
            )


def weak_to_strong(study: StudyConfig, train: TrainConfig) -> Iterator[Arm]:
    """Every method with one reference, that of the study itself (`weak_reference`) where none is named (figure 1)."""
    if len(study.reference_names) > 1:
        raise ConfigError("A weak-to-strong study has one reference", where="study.references", fix="Name one, or none.")
    for method, reference in _methods(study, train):
        yield _arm(study, method, reference, _named(study, method, reference))


def scaling(study: StudyConfig, train: TrainConfig) -> Iterator[Arm]:
    """Every method at every model size and every number of samples seen (figure 2).

    ConfigError where these are too few for a law, which would only be said after the last training.
    """
    sizes, budgets = study.architecture_names or [train.architecture], study.budget_numbers or [train.samples]
    least = FEWEST + study.irreducible
    if len(sizes) * len(budgets) < least:
        raise ConfigError(
            f"A scaling law needs runs of {least} different computes, and the study has {len(sizes) * len(budgets)}",
            where="study.architectures, study.budgets",
            fix="Name more model sizes or budgets" + (", or set irreducible to false." if study.irreducible else "."),
        )
    for method, reference in _methods(study, train):
        name, label = _named(study, method, reference)
        for architecture in sizes:
            for samples in budgets:
                size = f"{architecture.replace('/', '-').lower()}-{samples}"
                arm = _arm(study, method, reference, (f"{name}-{size}", f"{label}; {architecture}, {samples:,} samples"))
                overrides = {**arm.overrides, "architecture": architecture, "samples": samples}
                yield arm.model_copy(update={"overrides": overrides})


KINDS: Mapping[str, Callable[[StudyConfig, TrainConfig], Iterator[Arm]]] = {
    "comparison": comparison,
    "data_efficiency": data_efficiency,
    "weak_to_strong": weak_to_strong,
    "scaling": scaling,
}


def study_arms(kind: str, study: StudyConfig, train: TrainConfig) -> tuple[Arm, ...]:
    """The arms of a study, in the order of its table; ConfigError for an unknown kind, a wrong setting, too many cells."""
    if kind not in KINDS:
        raise ConfigError(f"There is no study '{kind}'", fix=nearest(kind, KINDS))
    arms = tuple(KINDS[kind](study, train))
    if (cells := len(arms) * len(study.seed_numbers)) > MAX_CELLS:
        raise ConfigError(
            f"{cells} trainings are too many for one study: {len(arms)} to compare, {len(study.seed_numbers)} seeds each",
            where="study",
            fix=f"Leave some out, {MAX_CELLS} are the most, or make several studies of them.",
        )
    return arms


def study_cells(name: str, arms: tuple[Arm, ...], seeds: list[int]) -> tuple[Cell, ...]:
    """Every arm with every seed. All arms of a seed come before the next seed, so that an early end leaves them equally far."""
    return tuple(Cell(run=f"{name}-{arm.name}-s{seed}", arm=arm.name, seed=seed) for seed in seeds for arm in arms)


def _methods(study: StudyConfig, train: TrainConfig) -> Iterator[tuple[str, str]]:
    """(method, reference) of everything that is compared; the reference is empty where there is none."""
    references = study.reference_names or [train.reference]
    for method in study.method_names:
        steered = uses_reference(method, study, train)
        yield from ((method, reference) for reference in (references if steered else references[:1]))


def uses_reference(method: str, study: StudyConfig, train: TrainConfig) -> bool:
    """Whether a method's loss or choice of samples depends on the reference; the others only show their variances by it."""
    weight = float(study.own_settings.get(method, {}).get("distillation_weight", train.distillation_weight))
    return METHODS[method].needs_reference or weight > 0


def _named(study: StudyConfig, method: str, reference: str) -> tuple[str, str]:
    """Name and label of a method, with its reference where that is needed to tell it from others."""
    several = len(study.reference_names) > 1 and METHODS[method].needs_reference
    label = METHOD_TITLES.get(method, method)
    return (f"{method}-{reference}", f"{label}, reference {reference}") if several else (method, label)


def _arm(study: StudyConfig, method: str, reference: str, named: tuple[str, str]) -> Arm:
    own = study.own_settings.get(method, {})
    if taken := sorted(FIXED & set(own)):
        raise ConfigError(f"'{taken[0]}' is nothing that a method sets for itself", where="study.settings", fix="Leave it out.")
    overrides: dict[str, Any] = {**own, "method": method, "reference": reference}
    return Arm(name=named[0], label=named[1], is_baseline=method == study.baseline, overrides=overrides)
