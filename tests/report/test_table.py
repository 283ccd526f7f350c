"""The comparison table: which rows and cells, which is best, and how it looks on a terminal."""

from __future__ import annotations

import math

import pytest
from synthetic import evaluation

from drrho_clip.report import COLUMNS, Measured, Results, Row, comparison_table, load_results, render_table
from drrho_clip.report.results import Metrics, ReferenceResult, RunResult
from drrho_clip.report.table import best_rows
from drrho_clip.storage import Store

BY_KEY = {column.key: column for column in COLUMNS}


def results(*runs: RunResult, references: tuple[ReferenceResult, ...] = ()) -> Results:
    return Results("shapes", "heldout", runs, references, ())


def test_rows_are_the_reference_then_the_runs(compared: Store):
    rows = comparison_table(load_results(compared, ["openclip-small", "fastclip-small", "drrho-small"]))
    assert [row.model for row in rows] == ["reference", "OpenCLIP", "FastCLIP", "DRRho-CLIP"]
    assert [row.run for row in rows] == ["clean", "openclip-small", "fastclip-small", "drrho-small"]
    assert [row.is_reference for row in rows] == [True, False, False, False]
    assert set(rows[3].values) >= set(BY_KEY)


def test_scores_come_with_their_standard_errors():
    values = comparison_table(results(RunResult("a", evaluation=evaluation("a", (0.1, 0.2, 0.3, 0.4, 0.5), trials=100))))[
        0
    ].values
    shares = [values[column.key] for column in COLUMNS[:5]]
    assert [score.value for score in shares] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [score.error for score in shares] == pytest.approx([math.sqrt(p * (1 - p) / 100) for p in (0.1, 0.2, 0.3, 0.4, 0.5)])


def test_variances_are_the_mean_of_both_sides_over_the_last_tenth():
    records = tuple(
        {
            "step": step,
            "pairwise_loss_variance.image.target": 1.0 if step > 18 else 9.0,
            "pairwise_loss_variance.text.target": 3.0 if step > 18 else 9.0,
            "pairwise_loss_variance.image.rho": 0.5,
        }
        for step in range(1, 21)
    )
    values = comparison_table(results(RunResult("a", metrics=Metrics(records))))[0].values
    assert values["variance_target"] == Measured(2.0)
    assert values["variance_rho"] == Measured(0.5)


def test_the_variances_of_a_finished_run_are_those_that_its_training_merged():
    records = ({"step": 1, "pairwise_loss_variance.image.target": 9.0, "pairwise_loss_variance.text.target": 9.0},)
    final = {"pairwise_loss_variance.image.target": 1.0, "pairwise_loss_variance.text.target": 2.0}
    values = comparison_table(results(RunResult("a", summary={"final": final}, metrics=Metrics(records))))[0].values
    assert values["variance_target"] == Measured(1.5)
    assert "variance_rho" not in values


def test_what_training_has_not_written_is_no_cell():
    row = comparison_table(results(RunResult("a", summary={"samples_seen": 10, "samples_per_second": None})))[0]
    assert row.values == {"samples_seen": Measured(10.0)}
    assert [row.cell(column) for column in COLUMNS] == ["-", "-", "-", "-", "-", "10", "-", "-", "-"]


@pytest.mark.parametrize(
    ("key", "measured", "text"),
    [
        ("zero_shot_top_1", Measured(0.2346, 0.0123), "23.5 ± 1.2"),
        ("zero_shot_top_1", Measured(1.0), "100.0"),
        ("samples_seen", Measured(1.28e9), "1,280,000,000"),
        ("samples_per_second", Measured(12.34), "12.3"),
        ("samples_per_second", Measured(1234.5), "1,234"),
        ("variance_rho", Measured(0.00449), "0.00449"),
    ],
)
def test_cells(key: str, measured: Measured, text: str):
    assert Row("a", "a", False, {key: measured}).cell(BY_KEY[key]) == text


def row(model: str, run: str, score: float, *, reference: bool = False) -> Row:
    return Row(model, run, reference, {"zero_shot_top_1": Measured(score, 0.01), "samples_seen": Measured(64000)})


def test_the_best_is_a_run_never_the_reference():
    rows = [row("reference", "clean", 0.9, reference=True), row("a", "a", 0.2), row("b", "b", 0.3), row("c", "c", 0.3)]
    assert best_rows(rows) == {"zero_shot_top_1": {2, 3}}
    assert best_rows(rows[:2]) == {}


def test_terminal_table_is_aligned_and_leaves_out_empty_columns():
    lines = render_table([row("OpenCLIP", "a", 0.05), row("DRRho-CLIP", "b", 0.25)]).splitlines()
    assert lines == [
        "             zero-shot  samples",
        "               top-1 %     seen",
        "-------------------------------",
        "OpenCLIP     5.0 ± 1.0   64,000",
        "DRRho-CLIP  25.0 ± 1.0   64,000",
    ]


def test_models_of_one_name_are_told_apart_by_their_run():
    text = render_table([row("OpenCLIP", "seed-1", 0.1), row("OpenCLIP", "seed-2", 0.1), row("FastCLIP", "f", 0.1)])
    assert "OpenCLIP (seed-1)" in text
    assert "OpenCLIP (seed-2)" in text
    assert "(f)" not in text


def test_a_table_without_any_value_still_names_the_runs():
    assert render_table([Row("OpenCLIP", "a", False, {})]).splitlines()[-1] == "OpenCLIP"


def test_every_column_is_defined_in_one_sentence():
    assert all(column.definition.endswith(".") and len(column.definition) < 140 for column in COLUMNS)
