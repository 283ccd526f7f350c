"""The fitted scaling law against closed forms, known laws and the published one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from drrho_clip.errors import DataError
from drrho_clip.models.flops import flops_per_sample
from drrho_clip.studies.scaling_law import Curve, Point, fit_law, frontier

COMPUTES = tuple(float(10**power) for power in (6, 6.5, 7, 7.5, 8, 8.5))
PUBLISHED = {"openclip": Curve(5.77, -0.116), "drrho": Curve(7.15, -0.127)}  # arXiv 2505.06699, figure 2
PUBLISHED_ERROR = {"openclip": 1 - 0.6694, "drrho": 1 - 0.6884}  # table 1: ViT-B/16, 1.28e9 samples seen


def points(law: Callable[[float], float], noise: float = 0.0, seeds: int = 1) -> list[Point]:
    random = np.random.default_rng(0)
    return [
        Point(label=f"{compute:g}-{seed}", compute=compute, error=law(compute) * math.exp(noise * random.standard_normal()))
        for compute in COMPUTES
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("method", ["openclip", "drrho"])
def test_points_on_a_published_law_give_its_numbers(method: str) -> None:
    curve = PUBLISHED[method]
    runs = [Point(label=f"{at:g}", compute=at, error=curve.error(at)) for at in np.geomspace(1e9, 1e11, 5)]
    found = fit_law(runs, resamples=20).curve
    assert (found.a, found.b) == pytest.approx((curve.a, curve.b), rel=1e-9)


@pytest.mark.parametrize("method", ["openclip", "drrho"])
def test_the_published_run_lies_on_the_published_law_at_our_flops(method: str) -> None:
    """So the compute of the published law is that of the forward pass, counted as we count it."""
    gflops = flops_per_sample("ViT-B-16") / 1e9
    assert PUBLISHED[method].error(gflops * 1.28e9) == pytest.approx(PUBLISHED_ERROR[method], rel=0.01)
    assert PUBLISHED[method].error(3 * gflops * 1.28e9) != pytest.approx(PUBLISHED_ERROR[method], rel=0.05)


def test_the_line_is_that_of_the_normal_equations() -> None:
    runs = points(lambda compute: 3 * compute**-0.1, noise=0.02, seeds=3)
    used, _ = frontier(runs)
    x, y = np.log([run.compute for run in used]), np.log([run.error for run in used])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    found = fit_law(runs, resamples=5).curve
    assert found.b == pytest.approx(slope, rel=1e-9)
    assert found.a == pytest.approx(math.exp(y.mean() - slope * x.mean()), rel=1e-9)


def test_an_irreducible_error_is_found() -> None:
    found = fit_law(points(lambda compute: 0.2 + 30 * compute**-0.3), irreducible=True, resamples=5).curve
    assert found.irreducible == pytest.approx(0.2, abs=1e-3)
    assert found.b == pytest.approx(-0.3, abs=5e-3)


def test_the_irreducible_error_has_the_least_squares() -> None:
    """scipy's general solver, started at the answer, finds nothing better."""
    from scipy.optimize import least_squares

    runs = points(lambda compute: 0.1 + 5 * compute**-0.2, noise=0.01, seeds=2)
    law = fit_law(runs, irreducible=True, resamples=5)
    compute, error = (np.array([getattr(run, name) for run in law.used]) for name in ("compute", "error"))

    def residuals(numbers: np.ndarray) -> np.ndarray:
        return np.log(numbers[2] + np.exp(numbers[0]) * compute ** numbers[1]) - np.log(error)

    start = np.array([math.log(law.curve.a), law.curve.b, law.curve.irreducible])
    best = least_squares(residuals, start, bounds=([-np.inf, -np.inf, 0], [np.inf, 0, error.min()]))
    assert (residuals(start) ** 2).sum() <= 2 * best.cost * 1.02


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth, hits, rounds = -0.1, 0, 60
    for seed in range(rounds):
        random = np.random.default_rng(seed)
        runs = [
            Point(label="", compute=at, error=3 * at**truth * math.exp(0.01 * random.standard_normal()))
            for at in COMPUTES
            for _ in range(5)
        ]
        low, high = fit_law(runs, resamples=200, seed=seed).interval("b")
        hits += low <= truth <= high
    assert 0.85 * rounds <= hits <= rounds


def test_as_few_runs_as_make_a_law_have_no_interval() -> None:
    law = fit_law(points(lambda compute: 3 * compute**-0.1)[:3])
    assert law.curve.b == pytest.approx(-0.1)
    assert law.interval("b") is None
    assert law.predict(1e6) == (pytest.approx(3 * 1e6**-0.1), None)


def test_a_prediction_comes_with_its_interval() -> None:
    law = fit_law(points(lambda compute: 3 * compute**-0.1, noise=0.02, seeds=3), resamples=200)
    near, far = law.predict(1e7), law.predict(1e12)
    assert near[0] == pytest.approx(3 * 1e7**-0.1, rel=0.03)
    assert near[1].low < near[0] < near[1].high
    assert (far[1].high - far[1].low) / far[0] > (near[1].high - near[1].low) / near[0]


def test_only_the_frontier_is_used() -> None:
    runs = points(lambda compute: 3 * compute**-0.1)
    beaten = Point(label="too large for its samples", compute=2e7, error=0.9)
    law = fit_law([*runs, beaten], resamples=5)
    assert law.left_out == (beaten,)
    assert law.used == tuple(runs)
    assert law.curve.b == pytest.approx(-0.1)


def test_the_same_points_give_the_same_intervals() -> None:
    runs = points(lambda compute: 3 * compute**-0.1, noise=0.02)
    assert fit_law(runs, resamples=50).interval("b") == fit_law(runs, resamples=50).interval("b")


@pytest.mark.parametrize("error", [0.0, -0.1, 1.5, math.nan])
def test_an_error_that_has_no_logarithm_is_named(error: float) -> None:
    runs = [*points(lambda compute: 3 * compute**-0.1), Point(label="run-x", compute=1e7, error=error)]
    with pytest.raises(DataError, match=r"no place on a scaling law.*run-x"):
        fit_law(runs)


@pytest.mark.parametrize(("kept", "irreducible"), [(2, False), (3, True)])
def test_too_few_computes_are_refused(kept: int, irreducible: bool) -> None:
    runs = points(lambda compute: 3 * compute**-0.1, seeds=4)[: 4 * kept]
    with pytest.raises(DataError, match=f"there are {kept}"):
        fit_law(runs, irreducible=irreducible)


def test_none_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="there are 0"):
        fit_law([])
