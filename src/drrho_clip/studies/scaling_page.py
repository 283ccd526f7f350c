"""What a scaling study shows beside the table of its runs: the laws, and error against compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from drrho_clip.report.plots import COLOURS, Curve, Plot, draw
from drrho_clip.report.study import StudyCell, StudyColumn, StudyRow, StudyTable
from drrho_clip.studies.claims import measure_name
from drrho_clip.studies.laws import LawResult
from drrho_clip.studies.results import StudyResult
from drrho_clip.studies.scaling_law import Interval, Point

DRAWN = 40  # points of a law's line


def laws_table(result: StudyResult) -> StudyTable:
    """A line per method: its law, the runs that it rests on, and what it predicts."""
    computes = result.plan.study.predicted_computes
    columns = [
        StudyColumn(
            "a", "Error = a · C^b, C in GFLOPs of a forward pass per sample times samples seen; 95% of the resamples below."
        ),
        StudyColumn("b", "The exponent: the lower, the faster the error falls."),
        StudyColumn("irreducible", "The part of the error that no compute removes; 0 unless the study fits it."),
        StudyColumn("runs used", "Runs on the frontier: of computes whose mean error is below that of every cheaper one."),
        StudyColumn("left out", "Runs that a cheaper one beats."),
        *(StudyColumn(f"at {compute:.3g} GFLOPs", "Predicted error, with the law's 95% interval below.") for compute in computes),
    ]
    rows = [_row(law, len(columns)) for law in result.laws]
    return StudyTable("The fitted laws", "", columns, rows)


def scaling_plot(result: StudyResult) -> Plot | None:
    """Error against compute on logarithmic axes: runs as marks, hollow where left out, the laws as lines; None without a law."""
    curves = [curve for number, law in enumerate(result.laws) for curve in _curves(law, number % COLOURS)]
    if not curves:
        return None
    return draw(
        curves,
        title=f"1 − {measure_name(result.measure).removesuffix(' %')}",
        x_label="GFLOPs: of a forward pass per sample, times samples seen",
        note="Marks: means over seeds, hollow where a cheaper run is as good. Lines: the fitted laws.",
        logarithmic=True,
    )


def _curves(law: LawResult, colour: int) -> Iterator[Curve]:
    if law.used:
        yield Curve(law.label, colour, _means(law.used), marked=True, joined=False)
        computes = [point.compute for point in (*law.used, *law.left_out)]
        line = [(float(at), law.error(float(at))) for at in np.geomspace(min(computes), max(computes), DRAWN)]
        yield Curve(law.label, colour, line)
    if law.left_out:
        yield Curve(law.label, colour, _means(law.left_out), marked=True, joined=False, hollow=True)


def _means(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Mean error of each arm of the points, by compute."""
    labels = dict.fromkeys(point.label for point in points)
    groups = [[point for point in points if point.label == label] for label in labels]
    return sorted((group[0].compute, sum(point.error for point in group) / len(group)) for group in groups)


def _row(law: LawResult, width: int) -> StudyRow:
    if law.problem:
        return StudyRow(law.label, [StudyCell("-")] * width, detail=law.problem)
    cells = [
        StudyCell(f"{law.a:.3g}", law.a, _text(law.a_interval)),
        StudyCell(f"{law.b:.4f}", law.b, _text(law.b_interval)),
        StudyCell(f"{law.irreducible:.3f}", law.irreducible),
        StudyCell(str(len(law.used)), len(law.used)),
        StudyCell(str(len(law.left_out)), len(law.left_out)),
        *(StudyCell(f"{one.error:.3f}", one.error, _text(one.interval)) for one in law.predictions),
    ]
    return StudyRow(law.label, cells)


def _text(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.3g} to {interval.high:.3g}"
