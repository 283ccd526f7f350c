"""The plan of a study: its cells, and everything that they have in common, published once and then the same for all of them."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.errors import ConfigError, DataError, ObjectChanged, nearest
from drrho_clip.evaluation.config import FREE as FREE_IN_EVALUATION
from drrho_clip.evaluation.config import EvaluateConfig
from drrho_clip.evaluation.expected import check_expected
from drrho_clip.observe import get_logger
from drrho_clip.schema import Config
from drrho_clip.storage import layout
from drrho_clip.studies.config import FREE as FREE_IN_REPORT
from drrho_clip.studies.config import StudyConfig
from drrho_clip.studies.matrix import Arm, Cell, study_arms, study_cells
from drrho_clip.studies.weak import WeakReference, weak_reference
from drrho_clip.training.config import TrainConfig
from drrho_clip.training.step import FREE as FREE_IN_TRAINING
from drrho_clip.training.step import check_settings

if TYPE_CHECKING:
    from drrho_clip.storage import Store

COMMITS = ("DRRHO_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA")
NOTES = {"revision", "version", "created"}
"""What a plan only tells: two plans that differ in it are the same."""
LATEST: Mapping[str, frozenset[str]] = {
    "study": FREE_IN_REPORT,
    # the curve of a run is made of its checkpoints
    "train": frozenset(FREE_IN_TRAINING) - {"checkpoint_steps", "keep_checkpoint_every"},
    "evaluate": FREE_IN_EVALUATION,
}
"""Settings that change nothing of what a study's runs result in, by section: those of the newest call are taken."""
MATRIX = frozenset({"methods", "settings", "seeds", "fractions", "architectures", "budgets"})
"""Settings of a study that say which runs there are: those of the newest call are taken where it only adds runs."""


class Plan(Config):
    """The content of studies/<name>/plan.json. `train` and `evaluate` are what all cells share."""

    kind: str
    name: str
    dataset: str
    dataset_version: int
    dataset_id: str
    study: StudyConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    arms: tuple[Arm, ...]
    weak: WeakReference | None
    revision: str  # git commit, empty where it is not known
    version: str  # of drrho-clip
    created: str  # UTC, ISO 8601

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The trainings, in the order in which they are done one after the other."""
        return study_cells(self.name, self.arms, self.study.seed_numbers)

    def cell(self, run: str) -> Cell:
        """The cell of this run; ConfigError with the nearest names."""
        found = {cell.run: cell for cell in self.cells}
        if run not in found:
            raise ConfigError(f"Run '{run}' is none of the study '{self.name}'", fix=nearest(run, found))
        return found[run]

    def training(self, cell: Cell) -> TrainConfig:
        """The settings of one training. Checkpoints are written so that `curve_points` of them can be kept."""
        overrides = next(arm.overrides for arm in self.arms if arm.name == cell.arm)
        shared = {**self.train.model_dump(), "dataset_version": self.dataset_version}
        where = f"run {cell.run}"
        config = TrainConfig.parse({**shared, **overrides, "run": cell.run, "seed": cell.seed}, where=where)
        points = min(self.study.curve_points, max(config.steps - 1, 0))
        if not points:
            return config
        every = max(1, config.steps // (points + 1))
        between = math.ceil(every / config.checkpoint_steps)
        steps = every // between
        return config.model_copy(update={"checkpoint_steps": steps, "keep_checkpoint_every": steps * between})

    def evaluation(self, run: str) -> EvaluateConfig:
        """The settings of one evaluation."""
        return self.evaluate.model_copy(update={"run": run})


def plan_study(kind: str, study: StudyConfig, train: TrainConfig, evaluate: EvaluateConfig, store: Store) -> Plan:
    """Find the plan of a study or publish it; everything that can be known to fail is found before.

    Of settings that change no run's result a plan that is found gets the newest; it may grow by methods, seeds, shares and sizes.
    ConfigError where the settings cannot work, where the name belongs to another study, and where the dataset or a setting has
    changed since: the runs of a study are only comparable while they are the same.
    """
    manifest = load_manifest(store, train.dataset, train.dataset_version or None)
    name = layout.check_name(study.name or f"{train.dataset}-{kind}".replace("_", "-"), "study")
    weak = weak_reference(name, study, train) if kind == "weak_to_strong" else None
    if weak is not None:
        study = study.model_copy(update={"references": weak.name})
    plan = Plan(
        kind=kind,
        name=name,
        dataset=train.dataset,
        dataset_version=manifest.version,
        dataset_id=manifest.id,
        study=study,
        train=train.model_copy(update={"run": name, "method": "openclip", "dataset_version": manifest.version}),
        evaluate=_evaluation(evaluate, name, train.dataset),
        arms=study_arms(kind, study, train),
        weak=weak,
        revision=revision(),
        version=version("drrho-clip"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    check_expected(plan.study.measure, plan.evaluate, manifest)
    found = find_plan(name, store)
    if found is None or _grows(found, plan):
        _check(plan, manifest, store)
    found = _with_latest(found or _publish(plan, store), plan, store)
    get_logger().info("study_planned", study=name, kind=kind, cells=len(plan.cells), dataset_version=manifest.version)
    return found


def find_plan(name: str, store: Store) -> Plan | None:
    """The plan of a study, or None; DataError where it cannot be read."""
    key = layout.study_plan(name)
    if store.head(key) is None:
        return None
    try:
        return Plan.model_validate_json(store.read(key))
    except ValueError:
        raise DataError("The plan of this study cannot be read", where=store.uri_of(key), fix="Choose another name.") from None


def load_plan(name: str, store: Store) -> Plan:
    """The plan of a study that was planned; ConfigError where it was not."""
    found = find_plan(name, store)
    if found is None:
        raise ConfigError(f"There is no study '{name}'", where=store.uri_of(layout.study_plan(name)), fix="Plan it first.")
    return found


def check_dataset(plan: Plan, store: Store) -> None:
    """Raise ConfigError, with both versions, where the dataset is no longer the one that the study was planned on."""
    manifest = load_manifest(store, plan.dataset)
    if manifest.id != plan.dataset_id:
        raise ConfigError(
            f"The study '{plan.name}' was planned on version {plan.dataset_version} of '{plan.dataset}', which is now at version "
            f"{manifest.version}: its runs could not be compared",
            where=store.uri_of(layout.study_plan(plan.name)),
            fix="Give the study another name (study.name) to make it anew.",
        )


def revision() -> str:
    """The git commit of this code: from the environment of a CI job, or from the clone that it runs in; empty where unknown."""
    if given := next((os.environ[name] for name in COMMITS if os.environ.get(name)), ""):
        return given
    here = Path(__file__).resolve()
    if "site-packages" in here.parts:  # whatever is around it has a history of its own
        return ""
    try:
        done = subprocess.run(["git", "-C", str(here.parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _evaluation(evaluate: EvaluateConfig, name: str, dataset: str) -> EvaluateConfig:
    """The evaluation of every run: what is named in `evaluate` gives way to the runs of the study."""
    others = dict.fromkeys(("model", "reference", "suite", "suite_data", "checkpoints"), "")
    return evaluate.model_copy(update={**others, "run": name, "dataset": dataset})


def _check(plan: Plan, manifest: Manifest, store: Store) -> None:
    check_dataset(plan, store)  # an older version could be trained on, but only the newest is evaluated
    manifest.split(plan.evaluate.split)
    trainings = [plan.weak.training(plan.train)] if plan.weak else []
    trainings += [plan.training(cell) for cell in plan.cells]
    for config in trainings:
        made_here = plan.weak is not None and config.reference == plan.weak.name
        check_settings(config, manifest, store, look_for_reference=not made_here)


def _publish(plan: Plan, store: Store) -> Plan:
    """The published plan: of several at once the first one's."""
    try:
        store.write(layout.study_plan(plan.name), _as_json(plan), if_absent=True)
    except ObjectChanged:
        return load_plan(plan.name, store)
    return plan


def _as_json(plan: Plan) -> bytes:
    return (plan.model_dump_json(indent=1) + "\n").encode()


def _with_latest(found: Plan, plan: Plan, store: Store) -> Plan:
    """The plan that was found with those settings of `plan` that may differ, which the store then has, too."""
    more = _grows(found, plan)
    free = {**LATEST, "study": LATEST["study"] | MATRIX} if more else LATEST
    taken = {
        section: getattr(found, section).model_copy(update={key: getattr(getattr(plan, section), key) for key in keys})
        for section, keys in free.items()
    }
    latest = found.model_copy(update={**taken, "arms": plan.arms if more else found.arms})
    _refuse_other(latest, plan, store)
    if latest != found:
        store.write(layout.study_plan(plan.name), _as_json(latest))
    return latest


def _grows(found: Plan, plan: Plan) -> bool:
    """Whether `plan` has every run of the plan that was found, with the same settings, and further ones."""
    return set(found.cells) < set(plan.cells) and all(arm in plan.arms for arm in found.arms)


def _refuse_other(found: Plan, plan: Plan, store: Store) -> None:
    where = store.uri_of(layout.study_plan(plan.name))
    if found.kind != plan.kind:
        raise ConfigError(
            f"The name '{plan.name}' belongs to another study: a {found.kind}", where=where, fix="Choose another study.name."
        )
    check_dataset(found, store)
    if differing := list(_differences(found.model_dump(exclude=NOTES), plan.model_dump(exclude=NOTES))):
        raise ConfigError(
            f"The study '{plan.name}' exists with other settings ({'; '.join(differing[:5])})",
            where=where,
            fix="Choose another study.name, or the same settings to go on with it.",
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in here:
        if isinstance(here[key], Mapping) and isinstance(there[key], Mapping):
            yield from _differences(there[key], here[key], f"{key}.")
        elif there.get(key) != here[key] and key != "arms":  # they follow from the rest
            yield f"{prefix}{key}: {there.get(key)!r} there, {here[key]!r} here"
