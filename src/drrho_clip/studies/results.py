"""What the runs of a study left in the store, as means over seeds and differences to the baseline."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from drrho_clip.evaluation import Evaluation
from drrho_clip.evaluation.step import read_evaluation
from drrho_clip.report.results import Results, RunResult, is_number, load_results
from drrho_clip.report.table import COLUMNS, Row, comparison_table
from drrho_clip.schema import Config
from drrho_clip.storage import layout
from drrho_clip.studies.cell import curve_steps
from drrho_clip.studies.laws import LawResult, fit_laws
from drrho_clip.studies.matrix import Arm, Cell
from drrho_clip.studies.plan import Plan
from drrho_clip.studies.statistics import Difference, Estimate, Reach, estimate, paired_difference, reach
from drrho_clip.training import find_summary

if TYPE_CHECKING:
    from drrho_clip.storage import Store

SCORES = tuple(column.key for column in COLUMNS if column.is_score)
SIZE = ("architecture", "samples")
FACTS = ("run", "arm", "seed", "method", "reference", "architecture", "data_fraction")


class CurvePoint(Config):
    """The measure of an arm on the way."""

    samples_seen: int
    measure: Estimate


class RunOutcome(Config):
    """One finished run. `values`: the measure, every score, samples_seen, samples_per_second, seconds, and both variances."""

    run: str
    arm: str
    seed: int
    method: str
    reference: str
    architecture: str
    data_fraction: float
    values: dict[str, float]


class ArmResult(Config):
    """What is compared, over its seeds. `differences` are to the baseline, of the measure and every score, paired by seed."""

    arm: Arm
    runs: tuple[RunOutcome, ...]
    means: dict[str, Estimate]
    differences: dict[str, Difference]
    curve: tuple[CurvePoint, ...]
    reach: Reach | None = None  # on the first arm of a method in data_efficiency

    @property
    def method(self) -> str:
        """Name of the method in the registry."""
        return str(self.arm.overrides["method"])

    @property
    def data_fraction(self) -> float:
        """Share of the data that it is trained on."""
        return self.runs[0].data_fraction


class ReferenceOutcome(Config):
    """A reference beside the runs: its scores, where it was evaluated, and what it saw, where it was trained here."""

    name: str
    model: str
    values: dict[str, float]


class StudyResult(Config):
    """The content of studies/<name>/study.json."""

    plan: Plan
    arms: tuple[ArmResult, ...]
    references: tuple[ReferenceOutcome, ...]
    missing: tuple[str, ...]  # runs that are not finished or not evaluated
    laws: tuple[LawResult, ...] = ()  # of scaling

    @property
    def measure(self) -> str:
        """What the study is about."""
        return self.plan.study.measure

    @property
    def baseline(self) -> ArmResult | None:
        """What the others are compared with; None while it has no finished run."""
        return next((arm for arm in self.arms if arm.arm.is_baseline), None)

    def to_csv(self) -> str:
        """One line per run."""
        runs = [run for arm in self.arms for run in arm.runs]
        keys = list(dict.fromkeys(key for run in runs for key in run.values))
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow([*FACTS, *keys])
        for run in runs:
            writer.writerow([*(getattr(run, fact) for fact in FACTS), *(run.values.get(key, "") for key in keys)])
        return sink.getvalue()


def collect(plan: Plan, store: Store) -> tuple[StudyResult, Results | None]:
    """The result of a study as far as it has come, and what it was made of (None where no run is done)."""
    done = [cell for cell in plan.cells if is_done(plan, cell, store)]
    missing = tuple(cell.run for cell in plan.cells if cell not in done)
    if not done:
        return StudyResult(plan=plan, arms=(), references=(), missing=missing), None
    results = load_results(store, [cell.run for cell in done], dataset=plan.dataset, split=plan.evaluate.label)
    rows = comparison_table(results)
    outcomes = _outcomes(plan, done, results.runs, {row.run: row for row in rows if not row.is_reference})
    curves = {cell.run: _curve(plan, cell, store) for cell in done}
    arms = compare(plan, outcomes, curves)
    references = tuple(
        ReferenceOutcome(
            name=reference.name,
            model=str(reference.identity.get("architecture", "")),
            values=_values(row, reference.summary, reference.evaluation, plan.study.measure),
        )
        for reference, row in zip(results.references, [row for row in rows if row.is_reference], strict=True)
    )
    laws = laws_of(arms, plan) if plan.kind == "scaling" else ()
    return StudyResult(plan=plan, arms=tuple(arms), references=references, missing=missing, laws=laws), results


def laws_of(arms: Sequence[ArmResult], plan: Plan) -> tuple[LawResult, ...]:
    """The scaling laws of a study's methods."""
    architectures = {arm.arm.name: arm.runs[0].architecture for arm in arms}
    return fit_laws([(arm.arm, [run.values for run in arm.runs]) for arm in arms], plan.study, architectures)


def compare(plan: Plan, outcomes: Sequence[RunOutcome], curves: Mapping[str, Mapping[int, float]]) -> list[ArmResult]:
    """The arms that have a finished run; `curves` are the measure on the way, by run and by samples seen."""
    measure = plan.study.measure
    groups = [(arm, [run for run in outcomes if run.arm == arm.name]) for arm in plan.arms]
    arms = _compared([_arm(arm, runs, curves, measure) for arm, runs in groups if runs], measure)
    return _with_reach(arms, measure) if plan.kind == "data_efficiency" else arms


def is_done(plan: Plan, cell: Cell, store: Store) -> bool:
    """Whether a run is finished and evaluated."""
    evaluated = layout.evaluation(cell.run, plan.dataset, plan.evaluate.label)
    return find_summary(cell.run, store) is not None and store.head(evaluated) is not None


def _outcomes(plan: Plan, cells: Sequence[Cell], runs: Sequence[RunResult], rows: Mapping[str, Row]) -> list[RunOutcome]:
    outcomes = []
    for cell, run in zip(cells, runs, strict=True):
        config = plan.training(cell)
        facts = {fact: getattr(config, fact) for fact in ("method", "reference", "architecture", "data_fraction")}
        values = _values(rows[cell.run], run.summary, run.evaluation, plan.study.measure)
        outcomes.append(RunOutcome(run=cell.run, arm=cell.arm, seed=cell.seed, values=values, **facts))
    return outcomes


def _values(row: Row, summary: Mapping[str, object], evaluation: Evaluation | None, measure: str) -> dict[str, float]:
    """The measure first, then what the comparison table knows, then the wall time."""
    first = {measure: evaluation.metric(measure)} if evaluation else {}
    seconds = summary.get("seconds")
    return (
        first
        | {key: measured.value for key, measured in row.values.items()}
        | ({"seconds": seconds} if is_number(seconds) else {})
    )


def _curve(plan: Plan, cell: Cell, store: Store) -> dict[int, float]:
    """The measure of one run, by samples seen; the finished model is left to the caller."""
    if not plan.training(cell).keep_checkpoint_every:
        return {}
    batch = plan.training(cell).batch_size
    found = {}
    for step in curve_steps(plan, cell.run, store):
        key = layout.checkpoint_evaluation(cell.run, step, plan.dataset, plan.evaluate.label)
        if store.head(key) is not None:
            found[step * batch] = read_evaluation(store, key).metric(plan.study.measure)
    return found


def _arm(arm: Arm, runs: Sequence[RunOutcome], curves: Mapping[str, Mapping[int, float]], measure: str) -> ArmResult:
    means = _means([run.values for run in runs])
    ends = [{**curves.get(run.run, {}), int(run.values["samples_seen"]): run.values[measure]} for run in runs]
    shared = sorted(set.intersection(*map(set, ends)))
    curve = tuple(CurvePoint(samples_seen=seen, measure=estimate([end[seen] for end in ends])) for seen in shared)
    return ArmResult(arm=arm, runs=tuple(runs), means=means, differences={}, curve=curve)


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """The mean of every value that all of the runs have."""
    shared = [key for key in (values[0] if values else {}) if all(key in other for other in values)]
    return {key: estimate([one[key] for one in values]) for key in shared}


def _compared(arms: Sequence[ArmResult], measure: str) -> list[ArmResult]:
    """The arms with their differences to the baseline of their size and budget, over the seeds that both have."""
    baselines = {_size(arm): arm for arm in reversed(arms) if arm.arm.is_baseline}
    return [_against(arm, baselines.get(_size(arm)), measure) for arm in arms]


def _size(arm: ArmResult) -> tuple[object, ...]:
    """What a study of sizes and budgets pairs by; the same for all arms of the others."""
    given = arm.arm.overrides
    return tuple(given[name] for name in SIZE) if all(name in given for name in SIZE) else ()


def _against(arm: ArmResult, baseline: ArmResult | None, measure: str) -> ArmResult:
    if baseline is None or arm is baseline:
        return arm
    differences = {key: found for key in (measure, *SCORES) if (found := _difference(arm, baseline, key))}
    return arm.model_copy(update={"differences": differences})


def _difference(arm: ArmResult, baseline: ArmResult, key: str) -> Difference | None:
    mine, theirs = _by_seed(arm, key), _by_seed(baseline, key)
    seeds = [seed for seed in mine if seed in theirs]
    return paired_difference([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]) if seeds else None


def _by_seed(arm: ArmResult, key: str) -> dict[int, float]:
    return {run.seed: run.values[key] for run in arm.runs if key in run.values}


def _with_reach(arms: Sequence[ArmResult], measure: str) -> list[ArmResult]:
    """Where each method reaches the baseline's result with all of the data, noted on the method's first arm."""
    baseline = next((arm for arm in arms if arm.arm.is_baseline), None)
    if baseline is None:
        return list(arms)
    first: dict[str, Reach] = {}
    for group in grouped(arms, lambda arm: (arm.method, arm.runs[0].reference)):
        tables = [_by_seed(arm, measure) for arm in (*group, baseline)]
        seeds = [seed for seed in tables[0] if all(seed in table for table in tables)]
        if seeds and group[-1].data_fraction == 1:
            *values, level = [[table[seed] for seed in seeds] for table in tables]
            first[group[0].arm.name] = reach([arm.data_fraction for arm in group], values, level)
    return [arm.model_copy(update={"reach": first.get(arm.arm.name)}) for arm in arms]


def grouped(arms: Sequence[ArmResult], key: Callable[[ArmResult], object]) -> list[list[ArmResult]]:
    """The arms that have a key in common, in order."""
    keys = dict.fromkeys(key(arm) for arm in arms)
    return [[arm for arm in arms if key(arm) == one] for one in keys]
