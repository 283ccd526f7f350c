"""The statistics of studies against closed forms, tables and scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from drrho_clip.studies.statistics import crossing, estimate, paired_difference, reach, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_of_student_s_t(confidence: float, freedom: int):
    assert t_quantile(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_quantiles_have_the_values_of_the_tables():
    assert [round(t_quantile(0.95, freedom), 3) for freedom in (1, 2, 4, 9)] == [12.706, 4.303, 2.776, 2.262]
    assert t_quantile(0.5, 1) == pytest.approx(1)  # the quartile of a Cauchy distribution


def test_means_and_standard_errors():
    found = estimate([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.error == pytest.approx(math.sqrt(7 / 3))
    assert estimate([0.25]).error is None


def test_paired_differences_are_those_of_the_paired_t_test():
    mine, theirs = [0.31, 0.35, 0.30, 0.38], [0.28, 0.33, 0.29, 0.31]
    found = paired_difference(mine, theirs)
    expected = stats.ttest_rel(mine, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.0325)
    assert found.sign == (found.low > 0)  # type: ignore[operator]


def test_pairing_takes_out_what_the_seeds_have_in_common():
    theirs = [0.1, 0.5, 0.9]
    assert paired_difference([value + 0.01 for value in theirs], theirs).sign == 1
    assert paired_difference([value - 0.01 for value in theirs], theirs).sign == -1
    assert paired_difference([0.2, 0.4, 0.9], theirs).sign == 0


def test_one_seed_has_no_interval():
    found = paired_difference([0.4], [0.3])
    assert (found.low, found.high, found.sign) == (None, None, 0)


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        ((0.1, 0.2, 0.3), 0.25, 0.75),
        ((0.1, 0.2, 0.3), 0.2, 0.5),
        ((0.1, 0.2, 0.3), 0.3, 1.0),
        ((0.1, 0.2, 0.3), 0.31, None),
        ((0.1, 0.2, 0.3), 0.05, 0.25),  # there already at the smallest
        ((0.3, 0.1, 0.3), 0.2, 0.75),  # it has to stay there
        ((0.3, 0.3, 0.1), 0.2, None),
    ],
)
def test_where_a_curve_reaches_a_level(values: tuple[float, ...], level: float, expected: float | None):
    assert crossing((0.25, 0.5, 1.0), values, level) == (None if expected is None else pytest.approx(expected))


def test_the_interval_of_a_crossing_is_that_of_the_resamples():
    fractions = (0.25, 0.5, 0.75, 1.0)
    rising = [[share / 2 + noise for noise in (-0.02, 0.0, 0.02, 0.01, -0.01)] for share in fractions]
    found = reach(fractions, rising, [0.3] * 5)
    assert found.fraction == pytest.approx(0.6)
    assert found.low is not None
    assert found.high is not None
    assert 0.56 < found.low < 0.6 < found.high < 0.64
    assert found.reached == 1
    assert reach(fractions, rising, [0.3] * 5) == found  # the same every time


def test_noise_that_the_level_shares_makes_no_interval():
    noise = (-0.1, 0.0, 0.1)
    found = reach((0.5, 1.0), [[0.2 + n for n in noise], [0.4 + n for n in noise]], [0.3 + n for n in noise])
    assert (found.fraction, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))


def test_a_level_that_is_not_reached():
    found = reach((0.5, 1.0), [[0.1, 0.1], [0.2, 0.2]], [0.3, 0.3])
    assert (found.fraction, found.high, found.reached) == (None, None, 0)
    half = reach((0.5, 1.0), [[0.1, 0.1], [0.2, 0.5]], [0.3, 0.3])
    assert half.fraction is not None
    assert half.high is None  # a quarter of the resamples holds the first seed alone
    assert 0.6 < half.reached < 0.9  # type: ignore[operator]
    assert reach((0.5, 1.0), [[0.4], [0.5]], [0.3]).at_most
