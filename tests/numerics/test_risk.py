"""The DRRho risks against a convex solver, finite differences, and what theory says of special cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drrho_clip.errors import DataError
from drrho_clip.method.risk import Risk, chi_square, cvar, kl, kl_fixed

Solve = Callable[[np.ndarray, float], tuple[float, np.ndarray]]

# Few distinct values, so that ties are common; of very different size, so that one sample may take it all.
LOSSES = st.lists(
    st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.1, 0.7, 1.0, 2.5, 9.0]) | st.floats(-5, 5, width=32), min_size=1, max_size=8
)


def solve(losses: np.ndarray, constraint: Callable[[cvxpy.Variable], cvxpy.Constraint]) -> tuple[float, np.ndarray]:
    p = cvxpy.Variable(len(losses), nonneg=True)
    problem = cvxpy.Problem(cvxpy.Maximize(losses @ p), [cvxpy.sum(p) == 1, constraint(p)])
    problem.solve(solver=cvxpy.CLARABEL)
    return float(problem.value), p.value


def kl_ball(p: cvxpy.Variable, radius: float) -> cvxpy.Constraint:
    n = p.shape[0]
    return cvxpy.sum(cvxpy.rel_entr(p, np.full(n, 1 / n))) <= radius / n


def chi_square_ball(p: cvxpy.Variable, radius: float) -> cvxpy.Constraint:
    return cvxpy.sum_squares(p.shape[0] * p - 1) <= 2 * radius


@settings(max_examples=150, deadline=None, derandomize=True)
@given(losses=LOSSES, radius=st.sampled_from([0.01, 0.3, 1.0, 3.0, 8.0, 40.0]))
@pytest.mark.parametrize(("risk", "ball"), [(kl, kl_ball), (chi_square, chi_square_ball)])
def test_a_ball_s_risk_is_what_a_convex_solver_finds(risk, ball, losses, radius):
    result = risk(torch.tensor(losses, dtype=torch.float64), radius=radius)
    expected, _ = solve(np.array(losses), partial(ball, radius=radius))
    assert result.value.item() == pytest.approx(expected, abs=2e-5)
    weights = result.weights.numpy()
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert weights @ losses == pytest.approx(result.value.item())
    n = len(losses)  # the weights lie in the ball, so that with the risk's value they are the solver's
    if risk is kl:
        assert np.sum(weights * np.log(np.maximum(n * weights, 1e-300))) <= radius / n + 1e-8
    else:
        assert np.sum((n * weights - 1) ** 2) <= 2 * radius + 1e-6


@settings(max_examples=100, deadline=None, derandomize=True)
@given(losses=LOSSES, alpha=st.sampled_from([0.1, 0.3, 0.5, 0.77, 1.0]))
def test_cvar_is_what_a_convex_solver_finds(losses, alpha):
    result = cvar(torch.tensor(losses, dtype=torch.float64), alpha=alpha)
    expected, _ = solve(np.array(losses), lambda p: p <= 1 / (alpha * len(losses)))
    assert result.value.item() == pytest.approx(expected, abs=1e-5)
    assert result.weights.sum().item() == pytest.approx(1)
    assert result.weights.max().item() <= 1 / (alpha * len(losses)) + 1e-9


@settings(max_examples=100, deadline=None, derandomize=True)
@given(losses=LOSSES, temperature=st.sampled_from([0.1, 0.5, 2.0, 30.0]))
def test_kl_with_a_fixed_temperature_is_what_a_convex_solver_finds(losses, temperature):
    """The same ball as a price: max over p of sum p_i r_i - temperature * KL(p, 1/n)."""
    result = kl_fixed(torch.tensor(losses, dtype=torch.float64), temperature=temperature)
    n = len(losses)
    p = cvxpy.Variable(n, nonneg=True)
    divergence = cvxpy.sum(cvxpy.rel_entr(p, np.full(n, 1 / n)))
    problem = cvxpy.Problem(cvxpy.Maximize(np.array(losses) @ p - temperature * divergence), [cvxpy.sum(p) == 1])
    problem.solve(solver=cvxpy.CLARABEL)
    assert result.value.item() == pytest.approx(float(problem.value), abs=1e-5)
    np.testing.assert_allclose(result.weights.numpy(), p.value, atol=2e-3)  # the solver's own accuracy in p


RISKS: dict[str, Callable[..., Risk]] = {
    "cvar": partial(cvar, k=2.5),
    "kl": partial(kl, radius=1.0),
    "kl_fixed": partial(kl_fixed, temperature=0.4),
    "chi_square": partial(chi_square, radius=0.5),
    "chi_square, some weights 0": partial(chi_square, radius=6.0),
}
every_risk = pytest.mark.parametrize("risk", RISKS.values(), ids=RISKS)


def some_losses(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@every_risk
def test_the_gradient_is_that_of_finite_differences_and_is_the_weights(risk):
    losses, reference = some_losses(6).requires_grad_(), some_losses(6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: risk(values, reference).value, losses)
    result = risk(losses, reference)
    result.value.backward()
    torch.testing.assert_close(losses.grad, result.weights)
    assert reference.grad is None


def test_a_temperature_has_its_gradient_and_rows_may_have_their_own():
    tau = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda losses, tau: kl_fixed(losses, temperature=tau).value, (some_losses(2, 5), tau))


@every_risk
def test_leading_dimensions_are_problems_of_their_own(risk):
    losses, reference = some_losses(2, 3, 7), some_losses(2, 3, 7, seed=1)
    together = risk(losses, reference)
    for i in range(2):
        for j in range(3):
            alone = risk(losses[i, j], reference[i, j])
            torch.testing.assert_close(together.value[i, j], alone.value)
            torch.testing.assert_close(together.weights[i, j], alone.weights)


@every_risk
def test_a_reference_equal_to_the_target_gives_uniform_weights_and_no_risk(risk):
    losses = some_losses(3, 5)
    result = risk(losses, losses)
    torch.testing.assert_close(result.weights, torch.full_like(losses, 1 / 5))
    torch.testing.assert_close(result.value, torch.zeros(3, dtype=torch.float64))


@every_risk
def test_equal_losses_have_equal_weights(risk):
    weights = risk(torch.tensor([1.0, 0.2, 1.0, 0.2, -3.0, 1.0])).weights
    assert weights[0] == weights[2] == weights[5]
    assert weights[1] == weights[3]


@every_risk
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_large_and_small_losses_stay_exact(risk, dtype, scale):
    losses = (some_losses(4, 50) * scale).clamp(-1e4, 1e4)
    exact, result = risk(losses), risk(losses.to(dtype))
    assert result.value.dtype == result.weights.dtype == dtype
    assert result.weights.isfinite().all()
    tolerance = 1e-4 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(result.value.double(), exact.value, rtol=tolerance, atol=tolerance * scale)
    torch.testing.assert_close(result.weights.sum(-1), torch.ones(4, dtype=dtype))


@pytest.mark.parametrize("risk", [kl, chi_square])
def test_the_risk_grows_with_the_radius_from_the_mean_to_the_maximum(risk):
    losses = some_losses(9)
    values = [risk(losses, radius=radius).value.item() for radius in (0, 1e-6, 0.01, 0.1, 1, 3, 10, 100, 1e6)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(losses.mean().item())
    assert values[-1] == losses.max().item()
    assert values[1] < values[3] < values[5]


def test_the_temperature_of_the_kl_ball_gives_its_weights_and_its_radius():
    losses = some_losses(5, 40)
    result = kl(losses, radius=4.0)
    assert result.temperature is not None
    fixed = kl_fixed(losses, temperature=result.temperature)
    torch.testing.assert_close(result.weights, fixed.weights)
    torch.testing.assert_close(result.value, fixed.value + result.temperature * 4.0 / 40)  # the dual, at its minimum


@pytest.mark.parametrize(("radius", "temperature"), [(0.0, math.inf), (1e3, 0.0)])
def test_at_the_ends_of_the_kl_ball_the_temperature_is_a_limit(radius, temperature):
    assert kl(some_losses(6), radius=radius).temperature == temperature


def test_cvar_shares_the_boundary_among_equal_losses():
    result = cvar(torch.tensor([3.0, 1.0, 1.0, 0.0]), k=1.5)
    torch.testing.assert_close(result.weights, torch.tensor([1.0, 0.25, 0.25, 0.0]) / 1.5)
    assert result.value.item() == pytest.approx((3 + 0.5) / 1.5)
    torch.testing.assert_close(cvar(torch.tensor([3.0, 1.0, 1.0, 0.0]), alpha=0.375).weights, result.weights)


def test_the_chi_square_risk_is_mean_plus_deviation_while_all_weights_are_positive():
    losses = some_losses(50)
    expected = losses.mean() + math.sqrt(2 * 0.3 * losses.var(correction=0) / 50)
    torch.testing.assert_close(chi_square(losses, radius=0.3).value, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: cvar(r, r[:3], k=1), r"\[3\] torch.float64, the target's \[4\] torch.float64"),
        (lambda r: kl(r, r.float(), radius=1), "torch.float32, the target's"),
        (lambda r: kl(r.long(), radius=1), "float32 or float64"),
        (lambda r: chi_square(r[:0], radius=1), "n > 0"),
        (lambda r: chi_square(r * math.nan, radius=1), "finite"),
        (lambda r: cvar(r, k=5), r"k must lie in \(0, 4\]"),
        (lambda r: cvar(r, k=0), r"k must lie in \(0, 4\]"),
        (lambda r: cvar(r, alpha=1.1), r"alpha in \(0, 1\]"),
        (lambda r: cvar(r), "either k or alpha"),
        (lambda r: cvar(r, k=1, alpha=0.5), "either k or alpha"),
        (lambda r: kl(r, radius=-1), "radius must be at least 0"),
        (lambda r: chi_square(r, radius=math.nan), "radius must be at least 0"),
        (lambda r: kl_fixed(r, temperature=0), "temperature must be positive"),
        (lambda r: kl_fixed(r, temperature=torch.tensor([1.0, -1.0])), "temperature must be positive"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call(some_losses(4))
