"""Means over seeds, differences that are paired by seed, and where one curve reaches a level: small numerics of our own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from drrho_clip.schema import Config

CONFIDENCE = 0.95
RESAMPLES = 2000


class Estimate(Config):
    """A mean over `n` seeds and its standard error, None for one seed."""

    mean: float
    error: float | None
    n: int


class Difference(Config):
    """A mean difference over `n` seeds, and the interval that holds the true one in 95 of 100 studies; None for one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below zero, 0 where it holds zero or there is none."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


class Reach(Config):
    """The share of the data at which a curve reaches a level; None = not within the shares that were measured.

    `at_most`: it is there at the smallest share already. `low` and `high` are 2.5% and 97.5% of the resamples over seeds, of
    which the share `reached` gets there at all; both are None for one seed, and `high` where too many resamples do not get there.
    """

    fraction: float | None
    at_most: bool
    low: float | None
    high: float | None
    reached: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error s / sqrt(n) of at least one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(mean=statistics.fmean(values), error=error, n=len(values))


def paired_difference(values: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """Mean of values - baseline, pair by pair, with Student's interval of n - 1 degrees of freedom."""
    found = estimate([value - other for value, other in zip(values, baseline, strict=True)])
    if found.error is None:
        return Difference(mean=found.mean, low=None, high=None, n=1)
    margin = t_quantile(confidence, found.n - 1) * found.error
    return Difference(mean=found.mean, low=found.mean - margin, high=found.mean + margin, n=found.n)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| < t) = `confidence` for Student's T of `freedom` >= 1 degrees of freedom, by bisection over its angle."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_probability(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle)), in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    power = math.cos(angle) if odd else 1.0
    term, total = power, power if freedom > 1 else 0.0
    for k in range(1 + odd, freedom - 2, 2):  # each term is the one before times k / (k + 1) times the squared cosine
        term *= k / (k + 1) * math.cos(angle) ** 2
        total += term
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series


def crossing(fractions: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """The smallest fraction from which on a curve stays at or above `level`, linear between rising `fractions`, or None."""
    if values[-1] < level:
        return None
    first = len(values) - 1
    while first > 0 and values[first - 1] >= level:
        first -= 1
    if first == 0:
        return fractions[0]
    share = (level - values[first - 1]) / (values[first] - values[first - 1])
    return fractions[first - 1] + share * (fractions[first] - fractions[first - 1])


def reach(fractions: Sequence[float], values: Sequence[Sequence[float]], level: Sequence[float]) -> Reach:
    """Where the means of `values` [fractions][seeds] reach the mean of `level` [seeds], which is paired with them.

    The interval is that of the bootstrap (Efron, 1979) over seeds, drawn once for all fractions and the level together. With two
    or three seeds it is narrower than it should be.
    """
    table, target = np.asarray(values, dtype=np.float64), np.asarray(level, dtype=np.float64)
    found = crossing(fractions, table.mean(axis=1).tolist(), float(target.mean()))
    at_most = found is not None and found == fractions[0]
    if target.size < 2:
        return Reach(fraction=found, at_most=at_most, low=None, high=None, reached=None)
    drawn = np.random.default_rng(0).integers(target.size, size=(RESAMPLES, target.size))
    ends = [crossing(fractions, table[:, seeds].mean(axis=1).tolist(), float(target[seeds].mean())) for seeds in drawn]
    placed = sorted(math.inf if end is None else end for end in ends)
    tail = (1 - CONFIDENCE) / 2
    low, high = placed[int(tail * RESAMPLES)], placed[math.ceil((1 - tail) * RESAMPLES) - 1]
    return Reach(
        fraction=found,
        at_most=at_most,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        reached=sum(end is not None for end in ends) / RESAMPLES,
    )
