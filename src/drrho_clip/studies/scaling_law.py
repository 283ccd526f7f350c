"""The scaling law of a method, fitted to its runs: error = irreducible + a * compute^b (arXiv 2505.06699, figure 2).

The published law has no irreducible part and is the least-squares line through the logarithms. With one, the same squares are
made least over all three numbers: for a fixed irreducible part the line through log(error - irreducible) is found in closed form,
each point weighted by what a change of that logarithm does to log(error), and the part itself by search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from drrho_clip.errors import DataError
from drrho_clip.schema import Config

Floats = NDArray[np.float64]

FEWEST = 3  # computes that tell a law from a line through two points
RESAMPLES = 1000
CONFIDENCE = 0.95
_SEARCHED = 64  # irreducible parts tried, three times, each time between the neighbours of the best


class Point(Config):
    """One run: what it cost and how far from perfect it is."""

    label: str
    compute: float = Field(gt=0, description="GFLOPs of a forward pass per sample, times the samples seen")
    error: float = Field(description="Share of wrong answers, in (0, 1]")


class Interval(NamedTuple):
    """An interval of `CONFIDENCE`, from the bootstrap."""

    low: float
    high: float


class Curve(NamedTuple):
    """error = irreducible + a * compute^b."""

    a: float
    b: float
    irreducible: float = 0.0

    def error(self, compute: float) -> float:
        """The error at a compute in GFLOPs."""
        return float(self.irreducible + self.a * compute**self.b)


class Law(NamedTuple):
    """A fitted curve, the points it rests on and those left out, and the curves of the resampled points.

    There are none of the latter where every draw would be the same: the fewest computes that make a law, one run each.
    """

    curve: Curve
    used: tuple[Point, ...]
    left_out: tuple[Point, ...]
    resampled: tuple[Curve, ...]

    def interval(self, number: str) -> Interval | None:
        """Interval of "a", "b" or "irreducible"."""
        return interval_of([getattr(curve, number) for curve in self.resampled])

    def predict(self, compute: float) -> tuple[float, Interval | None]:
        """The error at `compute` GFLOPs, and its interval: of the law, not of a single run."""
        return self.curve.error(compute), interval_of([curve.error(compute) for curve in self.resampled])


def fit_law(points: Sequence[Point], *, irreducible: bool = False, resamples: int = RESAMPLES, seed: int = 0) -> Law:
    """Fit the law to the frontier of `points`; intervals by drawing the frontier's runs anew, `resamples` times.

    Raises DataError for an error outside (0, 1], and for fewer than three different computes on the frontier (four with an
    irreducible part).
    """
    _check(points)
    used, left_out = frontier(points)
    least = FEWEST + irreducible
    if len({point.compute for point in used}) < least:
        raise DataError(
            f"A scaling law needs runs of {least} different computes on the frontier, and there are "
            f"{len({point.compute for point in used})} ({len(points)} runs, {len(left_out)} of them beaten by a cheaper one)",
            where=points[0].label if points else "",
            fix="Add model sizes or budgets" + (", or fit without an irreducible error." if irreducible else "."),
        )
    compute = np.array([point.compute for point in used])
    error = np.array([point.error for point in used])
    random = np.random.default_rng(seed)
    draws = (_draw(random, compute, least) for _ in range(resamples if len(used) > least else 0))
    resampled = tuple(_fit(compute[drawn], error[drawn], irreducible) for drawn in draws)
    return Law(_fit(compute, error, irreducible), used, left_out, resampled)


def frontier(points: Sequence[Point]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Split into the points of computes whose mean error is below that of every cheaper compute, and the others."""
    used: list[Point] = []
    left_out: list[Point] = []
    best = np.inf
    for compute in sorted({point.compute for point in points}):
        same = [point for point in points if point.compute == compute]
        mean = float(np.mean([point.error for point in same]))
        (used if mean < best else left_out).extend(same)
        best = min(best, mean)
    return tuple(used), tuple(left_out)


def _check(points: Sequence[Point]) -> None:
    for point in points:
        if not 0 < point.error <= 1:
            raise DataError(
                f"An error of {point.error:g} has no place on a scaling law: it must be above 0 and at most 1",
                where=point.label,
                fix="Leave the run out, or take a metric that it neither solves whole nor fails to give.",
            )


def _draw(random: np.random.Generator, compute: Floats, least: int) -> NDArray[np.int64]:
    """Draw as many runs as there are, with replacement, until they are of `least` different computes."""
    while True:
        drawn = random.integers(0, len(compute), len(compute))
        if len(np.unique(compute[drawn])) >= least:
            return drawn


def _fit(compute: Floats, error: Floats, irreducible: bool) -> Curve:
    if not irreducible:
        return _line(compute, error, 0.0)
    low, high = 0.0, float(error.min()) * (1 - 1e-6)
    best = _line(compute, error, low)
    for _ in range(3):
        tried = np.linspace(low, high, _SEARCHED)
        curves = [_line(compute, error, float(part)) for part in tried]
        at = int(np.argmin([_squares(curve, compute, error) for curve in curves]))
        best, low, high = curves[at], float(tried[max(at - 1, 0)]), float(tried[min(at + 1, _SEARCHED - 1)])
    return best


def _line(compute: Floats, error: Floats, irreducible: float) -> Curve:
    """The least-squares line of log(error - irreducible) over log(compute)."""
    reducible = error - irreducible
    slope, height = np.polyfit(np.log(compute), np.log(reducible), 1, w=reducible / error)
    return Curve(float(np.exp(height)), float(slope), irreducible)


def _squares(curve: Curve, compute: Floats, error: Floats) -> float:
    fitted = curve.irreducible + curve.a * compute**curve.b
    return float(np.sum((np.log(fitted) - np.log(error)) ** 2))


def interval_of(values: Sequence[float]) -> Interval | None:
    """The interval that holds `CONFIDENCE` of the values of resampled runs, None of none."""
    if not values:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
