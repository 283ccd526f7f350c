"""The comparison table: one row per reference and run, for the page, the commands and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drrho_clip.evaluation.results import Evaluation
from drrho_clip.report.results import ReferenceResult, Results, RunResult, is_number


@dataclass(frozen=True)
class Column:
    """One measure: its name in a row, its heading (two short lines), its definition in one sentence."""

    key: str
    heading: tuple[str, str]
    definition: str
    is_score: bool = False  # a fraction, shown in %, of which more is better


def _recall(key: str, direction: str, k: int, queries: str, target: str) -> Column:
    definition = f"Share of the {queries} with any {target} of their own among the {k} most similar; equal ones count as one."
    return Column(f"{key}_recall_at_{k}", (direction, f"R@{k} %"), definition, is_score=True)


COLUMNS: tuple[Column, ...] = (
    _recall("image_to_text", "image→text", 1, "pictures", "caption"),
    _recall("image_to_text", "image→text", 5, "pictures", "caption"),
    _recall("text_to_image", "text→image", 1, "captions", "picture"),
    _recall("text_to_image", "text→image", 5, "captions", "picture"),
    Column(
        "zero_shot_top_1",
        ("zero-shot", "top-1 %"),
        "Share of the pictures whose own class is the most similar, each class being the mean of its prompts.",
        is_score=True,
    ),
    Column("samples_seen", ("samples", "seen"), "Image-text pairs that training went through, repeats counted."),
    Column(
        "samples_per_second", ("samples", "/ s"), "Samples seen divided by the wall time of training, all processes together."
    ),
    Column(
        "variance_target",
        ("Var(l)", ""),
        "Variance of the pairwise losses l = s(i,j) − s(i,i) in a batch; mean of image and text side, last 10% of the records.",
    ),
    Column(
        "variance_rho",
        ("Var(l−l_ref)", ""),
        "The same minus the reference's pairwise losses: what the excess risk of DRRho scales with (arXiv 2505.06699).",
    ),
)


@dataclass(frozen=True)
class Measured:
    """A value and its standard error, None where it has none."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Row:
    """What one model reached; `values` holds the columns that are known. Rates and recalls are fractions."""

    model: str
    run: str
    is_reference: bool
    values: Mapping[str, Measured]

    def cell(self, column: Column) -> str:
        """The text of one cell, "-" where nothing was measured."""
        measured = self.values.get(column.key)
        if measured is None:
            return "-"
        if column.key == "samples_seen":
            return f"{measured.value:,.0f}"
        if column.key == "samples_per_second":
            return f"{measured.value:,.0f}" if measured.value >= 100 else f"{measured.value:.1f}"
        if column.is_score:
            error = "" if measured.error is None else f" ± {100 * measured.error:.1f}"
            return f"{100 * measured.value:.1f}{error}"
        return f"{measured.value:.3g}"


def comparison_table(results: Results) -> list[Row]:
    """Return a row per reference, then per run in the order given; models of one name are told apart by their run."""
    rows = [_reference_row(reference) for reference in results.references]
    return rows + [_run_row(run) for run in results.runs]


def largest_values(rows: Sequence[Row]) -> dict[str, float]:
    """Largest value of each column that anyone has."""
    keys = {key for row in rows for key in row.values}
    return {key: max(row.values[key].value for row in rows if key in row.values) for key in keys}


def best_rows(rows: Sequence[Row]) -> dict[str, set[int]]:
    """Positions of the best rows of each column of scores; a reference does not compete, nor does a row alone."""
    best = {}
    for column in COLUMNS:
        known = {
            i: row.values[column.key].value for i, row in enumerate(rows) if column.key in row.values and not row.is_reference
        }
        if column.is_score and len(known) > 1:
            best[column.key] = {i for i, value in known.items() if value == max(known.values())}
    return best


def render_table(rows: Sequence[Row]) -> str:
    """Return the table as text for a terminal: two lines of headings, a rule, a line per row. Columns nobody has are left out."""
    columns = [column for column in COLUMNS if any(column.key in row.values for row in rows)]
    repeated = Counter(row.model for row in rows)
    names = [f"{row.model} ({row.run})" if repeated[row.model] > 1 and row.run else row.model for row in rows]
    table = [["", *(column.heading[0] for column in columns)], ["", *(column.heading[1] for column in columns)]]
    table += [[name, *(row.cell(column) for column in columns)] for name, row in zip(names, rows, strict=True)]
    return aligned(table, headings=2)


def aligned(table: Sequence[Sequence[str]], *, headings: int) -> str:
    """Lines of equal length as text in columns, a rule below the first `headings` of them; the first column is to the left."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    lines.insert(headings, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def _run_row(run: RunResult) -> Row:
    values = _scores(run.evaluation) | _training(run.summary)
    for key, of in (("variance_target", "target"), ("variance_rho", "rho")):
        mean = _variance(run, of)
        if mean is not None:
            values[key] = Measured(mean)
    return Row(run.title, run.name, False, values)


def _variance(run: RunResult, of: str) -> float | None:
    """Mean of both sides; a finished run knows that of all pairs of its last steps together, others have their records."""
    keys = [f"pairwise_loss_variance.{side}.{of}" for side in ("image", "text")]
    final = run.summary.get("final") or {}
    if all(is_number(final.get(key)) for key in keys):
        return sum(float(final[key]) for key in keys) / len(keys)
    return run.metrics.late_mean(*keys)


def _reference_row(reference: ReferenceResult) -> Row:
    return Row("reference", reference.name, True, _scores(reference.evaluation) | _training(reference.summary))


def _training(summary: Mapping[str, Any]) -> dict[str, Measured]:
    known = {key: summary.get(key) for key in ("samples_seen", "samples_per_second")}
    return {key: Measured(float(value)) for key, value in known.items() if is_number(value)}


def _scores(evaluation: Evaluation | None) -> dict[str, Measured]:
    if evaluation is None:
        return {}
    errors = evaluation.standard_errors()
    return {name: Measured(value, errors.get(name)) for name, value in evaluation.scalars().items()}
