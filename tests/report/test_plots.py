"""Curves: scaled right, thinned without bias, in the same colours everywhere."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import records

from drrho_clip.report.plots import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    MAX_TICKS,
    RIGHT,
    TOP,
    WIDTH,
    Curve,
    Plot,
    draw,
    thin,
    tick_labels,
    training_plots,
)
from drrho_clip.report.results import Metrics, parse_metrics


def coordinates(path: str) -> list[tuple[float, float]]:
    assert re.fullmatch(r"M-?[\d.]+,-?[\d.]+(L-?[\d.]+,-?[\d.]+)*", path)
    return [tuple(map(float, pair.split(","))) for pair in path[1:].split("L")]  # type: ignore[misc]


def plot(*series: list[tuple[float, float]], zero: bool = False) -> Plot:
    return draw([Curve(f"run {i}", i, points) for i, points in enumerate(series)], title="Loss", x_label="step", zero=zero)


def test_ends_of_the_data_lie_at_the_ends_of_the_frame():
    drawn = coordinates(plot([(0, 0), (50, 5), (100, 10)]).lines[0].path)
    assert drawn == [(LEFT, HEIGHT - BOTTOM), ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2), (WIDTH - RIGHT, TOP)]


def test_logarithmic_axis_places_decades_evenly():
    result = plot([(1, 0.001), (2, 0.01), (3, 0.1)])
    low, middle, high = (y for _, y in coordinates(result.lines[0].path))
    assert "log scale" in result.unit
    assert low - middle == pytest.approx(middle - high, abs=0.11)
    assert {"0.001", "0.01", "0.1"} <= {tick.label for tick in result.y_ticks}


@pytest.mark.parametrize(
    ("values", "zero", "logarithmic"),
    [
        ([0.001, 1.0], False, True),
        ([0.5, 1.0], False, False),
        ([-1.0, 100.0], False, False),
        ([0.0, 100.0], False, False),
        ([0.001, 1.0], True, False),
    ],
    ids=["wide", "narrow", "negative", "zero inside", "from zero"],
)
def test_logarithmic_axis_only_for_wide_positive_series(values: list[float], zero: bool, logarithmic: bool):
    assert ("log scale" in plot(list(enumerate(values)), zero=zero).unit) == logarithmic


finite = st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: 0.0 if abs(value) < 1e-12 else value)


@given(st.lists(finite, min_size=1, max_size=30), st.booleans())
def test_anything_finite_stays_in_the_frame_with_few_ticks(values: list[float], zero: bool):
    result = plot([(10.0 * (i + 1), value) for i, value in enumerate(values)], zero=zero)
    for x, y in coordinates(result.lines[0].path):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert 2 <= len(result.y_ticks) <= MAX_TICKS
    labels = [tick.label for tick in result.y_ticks]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("count", [1, MAX_POINTS, MAX_POINTS + 1, 10 * MAX_POINTS + 7, 54_321])
def test_thinning_keeps_few_points_and_the_mean(count: int):
    points = [(float(i), math.sin(i)) for i in range(count)]
    thinned = thin(points)
    assert min(count, MAX_POINTS // 2) <= len(thinned) <= MAX_POINTS
    if count % math.ceil(count / MAX_POINTS) == 0:
        assert sum(y for _, y in thinned) / len(thinned) == pytest.approx(sum(y for _, y in points) / count, abs=1e-9)
    assert points[0][0] <= thinned[0][0]
    assert thinned[-1][0] <= points[-1][0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 0.05, 0.1, 0.15000000000000002], ["0", "0.05", "0.1", "0.15"]),
        ([0, 500, 1000, 1500], ["0", "0.5k", "1k", "1.5k"]),
        ([-2000, 0, 2000], ["-2k", "0", "2k"]),
        ([0, 5e8, 1e9], ["0", "0.5G", "1G"]),
        ([1e-5, 1e-4, 1e-3], ["1e-05", "0.0001", "0.001"]),
        ([0.1, 0.10025, 0.1005], ["0.1", "0.10025", "0.1005"]),
        ([1_000_000, 1_000_002], ["1M", "1.000002M"]),
    ],
)
def test_tick_labels_are_short_and_exact(values: list[float], labels: list[str]):
    assert tick_labels(values) == labels


@pytest.mark.parametrize(("low", "high"), [(1e-9, 1.0), (1.0, 1e9), (0.02, 9.9), (1e-5, 2e-3), (3e-12, 4e11)])
def test_logarithmic_ticks_enclose_the_data_and_stay_few(low: float, high: float):
    ticks = plot([(0, low), (1, high)]).y_ticks
    assert 2 <= len(ticks) <= MAX_TICKS
    assert ticks[0].at == HEIGHT - BOTTOM
    assert ticks[-1].at == TOP


def metrics(**settings: object) -> Metrics:
    lines = records(**{"steps": 100, "every": 10, "batch": 8, "seed": 1, "variance": (0.3, 0.03), "loss": (2.0, 1.0), **settings})  # type: ignore[arg-type]
    return Metrics(tuple(lines))


def test_a_run_has_its_colour_in_every_panel_also_where_another_has_no_values():
    without_gamma = Metrics(tuple({k: v for k, v in record.items() if k != "gamma"} for record in metrics().records))
    plots = {p.title: p for p in training_plots([("a", without_gamma), ("b", metrics(seed=2))])}
    assert all((1, "b") in p.colours for p in plots.values())
    assert plots["Gamma"].colours == ((1, "b"),)
    assert plots["Loss"].colours == ((0, "a"), (1, "b"))


def test_variances_are_told_apart_by_their_stroke():
    variance = training_plots([("a", metrics())])[0]
    assert variance.styles == ((False, "Var(l − l_ref)"), (True, "Var(l)"))
    assert [line.dashed for line in variance.lines] == [False, True]
    assert "a Var(l): from" in variance.description


def test_every_run_is_in_the_legend_also_when_colours_come_round():
    loss = next(p for p in training_plots([(f"run {i}", metrics()) for i in range(COLOURS + 1)]) if p.title == "Loss")
    assert [label for _, label in loss.colours] == [f"run {i}" for i in range(COLOURS + 1)]
    assert loss.colours[0][0] == loss.colours[-1][0]


def test_panels_nobody_has_values_for_are_left_out():
    assert [p.title for p in training_plots([("a", parse_metrics(['{"step": 1, "loss": 2.0}']))])] == ["Loss"]
    assert training_plots([("a", Metrics())]) == []


def test_axis_is_samples_seen_only_where_every_record_has_it():
    assert training_plots([("a", metrics())])[0].x_label == "samples seen"
    mixed = [("a", metrics()), ("b", parse_metrics(['{"step": 1, "loss": 2.0}']))]
    assert training_plots(mixed)[0].x_label == "step"


def test_a_narrow_range_has_ticks_on_logarithmic_axes_too():
    plot = draw([Curve("law", 0, [(10, 0.997), (1000, 0.978)])], title="", x_label="", logarithmic=True)
    assert plot.x_ticks[0].label == "10"
    assert len(plot.y_ticks) >= 4
    assert "log" not in plot.unit, "the y axis is straight"
