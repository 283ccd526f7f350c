"""The page of a study, made of its result."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from drrho_clip.report.facts import measured_on, missing, settings
from drrho_clip.report.plots import COLOURS, Curve, Plot, draw
from drrho_clip.report.results import Results, RunResult
from drrho_clip.report.study import StudyCell, StudyColumn, StudyPage, StudyRow, StudyTable
from drrho_clip.report.table import COLUMNS, Column, Measured, Row
from drrho_clip.report.text import duration
from drrho_clip.storage import layout
from drrho_clip.studies.claims import claims, fraction, measure_name, percent, spread
from drrho_clip.studies.results import ArmResult, StudyResult, grouped
from drrho_clip.studies.scaling_page import laws_table, scaling_plot
from drrho_clip.studies.statistics import Estimate

if TYPE_CHECKING:
    from drrho_clip.storage import Store

TITLES = {
    "comparison": "Comparison",
    "data_efficiency": "Data efficiency",
    "weak_to_strong": "Weak to strong",
    "scaling": "Scaling",
}
RHO = ("pairwise_loss_variance.image.rho", "pairwise_loss_variance.text.rho")


def study_page(result: StudyResult, results: Results | None, store: Store, notes: Sequence[str] = ()) -> StudyPage:
    """Everything that the page shows; `results` is what the result was made of."""
    plan = result.plan
    runs = results.runs if results else ()
    one_seed = [run for run in runs if run.name in {arm.runs[0].run for arm in result.arms}]
    same, different = settings(one_seed)
    undone = [f"Not done yet: {', '.join(result.missing)}."] if result.missing else []
    return StudyPage(
        title=f"{TITLES.get(plan.kind, plan.kind)}: {plan.name}",
        lead=f"{len(plan.arms)} arms, {_seeds(len(plan.study.seed_numbers))}, on {plan.dataset}; "
        f"{measure_name(result.measure)} on the split {plan.evaluate.split}",
        claims=list(claims(result)),
        table=_table(result),
        table_note="± is the standard error over seeds. Differences are to the baseline, paired by seed, with Student's 95% "
        "interval below. A dash: not measured. A heading sorts.",
        plots=list(_plots(result, {run.name: run for run in runs})),
        more=[laws_table(result)] if result.laws else [],
        runs=_runs(result),
        facts=_facts(result, results),
        labels=[arm.arm.label for arm in result.arms],
        same=[line for line in same if line[0] != "seed"],
        different=[line for line in different if line[0] != "seed"],
        notes=[*undone, *notes, *(missing(results) if results else ())],
        sources=[store.uri_of(key) for key in (layout.study_plan(plan.name), *(results.sources if results else ()))],
        versions={"drrho-clip": version("drrho-clip"), "Python": platform.python_version()},
        written=datetime.now(UTC),
    )


def shown_columns(result: StudyResult) -> list[Column]:
    """The columns of the comparison table that any arm or reference has, without those that the measure repeats."""
    known = {key for arm in result.arms for key in arm.means} | {key for one in result.references for key in one.values}
    return [column for column in COLUMNS if column.key in known and column.key != result.measure]


def _table(result: StudyResult) -> StudyTable:
    others = shown_columns(result)
    columns = [StudyColumn(measure_name(result.measure), "What the study is about, mean over the seeds.")]
    columns.append(StudyColumn("difference", "To the baseline, in percentage points, paired by seed."))
    if any(arm.reach for arm in result.arms):
        columns.append(
            StudyColumn(
                "reached with",
                "Share of the data from which on the method is as good as the baseline with all of it, interpolated; in brackets "
                "95% of the resamples of the seeds.",
            )
        )
    columns += [StudyColumn(" ".join(column.heading).strip(), column.definition) for column in others]
    columns.append(StudyColumn("time", "Wall time of one training, mean over the seeds."))
    rows = [_reference_row(one.name, one.model, one.values, result, others, len(columns)) for one in result.references]
    rows += [_arm_row(arm, result, others, any(arm.reach for arm in result.arms)) for arm in result.arms]
    counts = sorted({len(arm.runs) for arm in result.arms}) or [0]
    few = f"{counts[0]} to " if counts[0] < counts[-1] else ""
    return StudyTable(f"Mean over {few}{_seeds(counts[-1])}; baseline {result.plan.study.baseline}", "Model", columns, rows)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _arm_row(arm: ArmResult, result: StudyResult, others: Sequence[Column], with_reach: bool) -> StudyRow:
    measure = result.measure
    found = arm.differences.get(measure)
    cells = [StudyCell(percent(arm.means[measure]), arm.means[measure].mean)]
    if found is None:
        cells.append(StudyCell("baseline" if arm.arm.is_baseline else "-", 0.0 if arm.arm.is_baseline else None))
    else:
        first, _, interval = spread(found).partition(" ")
        cells.append(StudyCell(first, found.mean, interval.strip("()")))
    if with_reach:
        cells.append(StudyCell(fraction(arm.reach), arm.reach.fraction) if arm.reach else StudyCell("-"))
    values = {key: Measured(one.mean, one.error) for key, one in arm.means.items()}
    cells += _cells(values, others)
    told = "architecture" in arm.arm.overrides  # by the label
    return StudyRow(arm.arm.label, cells, detail="" if told else arm.runs[0].architecture)


def _reference_row(
    name: str, model: str, values: Mapping[str, float], result: StudyResult, others: Sequence[Column], width: int
) -> StudyRow:
    own = values.get(result.measure)
    cells = [StudyCell("-") if own is None else StudyCell(f"{100 * own:.1f}", own)]
    cells += [StudyCell("-")] * (width - len(others) - 2)
    cells += _cells({key: Measured(value) for key, value in values.items()}, others)
    return StudyRow("reference", cells, detail=f"{name}, {model}" if model else name, is_reference=True)


def _cells(values: Mapping[str, Measured], columns: Sequence[Column]) -> list[StudyCell]:
    row = Row("", "", False, values)
    cells = [StudyCell(row.cell(column), values[column.key].value if column.key in values else None) for column in columns]
    seconds = values.get("seconds")
    return [*cells, StudyCell(duration(seconds.value), seconds.value) if seconds else StudyCell("-")]


def _runs(result: StudyResult) -> StudyTable:
    others = shown_columns(result)
    columns = [StudyColumn("seed", ""), StudyColumn(measure_name(result.measure), "")]
    columns += [StudyColumn(" ".join(column.heading).strip(), column.definition) for column in others]
    rows = [
        StudyRow(
            run.run,
            [
                StudyCell(str(run.seed), run.seed),
                StudyCell(f"{100 * run.values[result.measure]:.1f}", run.values[result.measure]),
                *_cells({key: Measured(value) for key, value in run.values.items()}, others),
            ],
            detail=arm.arm.label,
            link=f"../../{layout.report(run.run)}",
        )
        for arm in result.arms
        for run in arm.runs
    ]
    return StudyTable("Every run, with a link to its report in the same store", "Run", [*columns, StudyColumn("time", "")], rows)


def _facts(result: StudyResult, results: Results | None) -> list[tuple[str, str]]:
    plan = result.plan
    versions = list(dict.fromkeys(str(run.summary.get("versions", {})) for run in results.runs)) if results else []
    return [
        ("study", plan.kind),
        ("planned", plan.created),
        ("dataset", f"{plan.dataset}, version {plan.dataset_version}, id {plan.dataset_id[:16]}"),
        ("measured on", measured_on(results) if results else ""),
        ("seeds", plan.study.seeds),
        ("runs", f"{sum(len(arm.runs) for arm in result.arms)} of {len(plan.cells)}"),
        ("git revision", plan.revision or "not known"),
        ("versions", "; ".join(text.strip("{}").replace("'", "") for text in versions)),
    ]


def _plots(result: StudyResult, runs: Mapping[str, RunResult]) -> Iterator[Plot]:
    if result.plan.kind == "data_efficiency" and result.arms:
        yield _efficiency_plot(result)
    if (scaling := scaling_plot(result)) is not None:
        yield scaling
    if any(len(arm.curve) > 1 for arm in result.arms):
        curves = [
            _curve(arm.arm.label, number, [(point.samples_seen, point.measure) for point in arm.curve])
            for number, arm in enumerate(result.arms)
        ]
        yield draw(
            curves, title=measure_name(result.measure), x_label="samples seen", note="Bars: standard error over seeds.", zero=True
        )
    if variance := [_variance(arm, number, runs) for number, arm in enumerate(result.arms)]:
        known = [curve for curve in variance if curve.points]
        if known:
            yield draw(
                known,
                title="Var(l − l_ref)",
                x_label="samples seen",
                note="Mean of image and text side and over seeds: what the excess risk scales with (arXiv 2505.06699).",
            )


def _efficiency_plot(result: StudyResult) -> Plot:
    groups = grouped(result.arms, lambda arm: (arm.method, arm.runs[0].reference))
    curves = [
        _curve(
            group[0].arm.label.rpartition(", ")[0],
            number,
            [(100 * arm.data_fraction, arm.means[result.measure]) for arm in group],
        )
        for number, group in enumerate(groups)
    ]
    if (baseline := result.baseline) is not None:
        level = 100 * baseline.means[result.measure].mean
        own = next(curve for curve, group in zip(curves, groups, strict=True) if baseline in group)
        curves.append(Curve(own.label, own.colour, [(0.0, level), (100.0, level)], "with all of the data", dashed=True))
    return draw(
        curves,
        title=measure_name(result.measure),
        x_label="% of the data, at equal samples seen",
        note="Bars: standard error over seeds. Dashed: the baseline's result with all of the data.",
    )


def _curve(label: str, number: int, points: Sequence[tuple[float, Estimate]]) -> Curve:
    means = [(x, 100 * one.mean) for x, one in points]
    errors = [100 * (one.error or 0.0) for _, one in points]
    return Curve(label, number % COLOURS, means, marked=True, errors=errors)


def _variance(arm: ArmResult, number: int, runs: Mapping[str, RunResult]) -> Curve:
    """Mean over sides and seeds, at the records that all seeds have."""
    tables = [
        dict(runs[run.run].metrics.series(key, against="samples_total")) for run in arm.runs for key in RHO if run.run in runs
    ]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    points = [(x, sum(table[x] for table in tables) / len(tables)) for x in shared]
    return Curve(arm.arm.label, number % COLOURS, points, marked=len(points) <= 12)
