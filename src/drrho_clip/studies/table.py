"""The table of a study for a terminal."""

from __future__ import annotations

from drrho_clip.report.table import COLUMNS, Measured, Row, aligned
from drrho_clip.studies.claims import fraction, measure_name, percent, spread
from drrho_clip.studies.results import ArmResult, StudyResult

SHOWN = ("samples_seen", "samples_per_second", "variance_target", "variance_rho")


def render_study_table(result: StudyResult) -> str:
    """A line per reference and arm: the measure, its difference to the baseline, samples seen, speed and both variances."""
    others = [column for column in COLUMNS if column.key in SHOWN and any(column.key in arm.means for arm in result.arms)]
    reached = ["reached with"] if any(arm.reach for arm in result.arms) else []
    lines = [["", measure_name(result.measure), "difference (95%)", *reached, *(" ".join(c.heading).strip() for c in others)]]
    for one in result.references:
        row = Row("", "", True, {key: Measured(value) for key, value in one.values.items()})
        own = one.values.get(result.measure)
        scores = ["-" if own is None else f"{100 * own:.1f}", "-", *("-" for _ in reached)]
        lines.append([f"reference {one.name}", *scores, *(row.cell(column) for column in others)])
    for arm in result.arms:
        row = Row("", "", False, {key: Measured(found.mean, found.error) for key, found in arm.means.items()})
        lines.append([arm.arm.label, *_measured(arm, result, bool(reached)), *(row.cell(column) for column in others)])
    return aligned(lines, headings=1)


def _measured(arm: ArmResult, result: StudyResult, with_reach: bool) -> list[str]:
    found = arm.differences.get(result.measure)
    difference = spread(found) if found else "baseline" if arm.arm.is_baseline else "-"
    reached = [fraction(arm.reach) if arm.reach else "-"] if with_reach else []
    return [percent(arm.means[result.measure]), difference, *reached]
