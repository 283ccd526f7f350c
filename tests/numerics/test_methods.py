"""The other objectives against naive float64 formulas, chunks against the whole, and what cannot be meant."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from drrho_clip.errors import DataError
from drrho_clip.method import METHODS, global_contrastive_loss
from drrho_clip.method import contrastive as contrastive_module
from drrho_clip.method.contrastive import GlobalBatch
from drrho_clip.method.objective import Objective
from drrho_clip.method.variance import pairwise_moments

N = 7
Pair = tuple[torch.Tensor, torch.Tensor]


def pair(d: int, seed: int, n: int = N) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


def fixed(both: Pair) -> Pair:
    return both[0].detach(), both[1].detach()


def run(method: str, features: Pair, reference: Pair | None, valid: torch.Tensor | None = None, **settings):
    config = METHODS[method](**settings)
    objective = config.build(samples=N, epochs=1, reference_temperature=0.1).double()
    valid = torch.ones(N, dtype=torch.bool) if valid is None else valid
    result = objective(features, reference, torch.arange(N), valid, 0)
    result.loss.backward()
    return objective, result


def u_of(objective: Objective) -> torch.Tensor:
    rows = objective.by_rows().get("u")
    return torch.zeros(1) if rows is None else rows.read_rows(0, N).nan_to_num(-9.0)


def naive_cvar(features: Pair, reference: Pair, k: int) -> torch.Tensor:
    s = features[0] @ features[1].T - reference[0] @ reference[1].T
    total = torch.zeros((), dtype=torch.float64)
    for scores in (s, s.T):
        for i in range(N):
            losses = torch.stack([scores[i, j] - scores[i, i] for j in range(N) if j != i])
            total = total + losses.sort(descending=True).values[:k].mean() / N
    return total


@pytest.mark.parametrize(("share", "k"), [(0.01, 1), (0.5, 3), (1.0, 6)])
def test_hard_selection_is_the_mean_of_the_hardest_negatives(share, k):
    features, naive, reference = pair(5, 0), pair(5, 0), fixed(pair(3, 1))
    _, result = run("drrho_cvar", features, reference, negatives_kept=share)
    expected = naive_cvar(naive, reference, k)
    expected.backward()
    torch.testing.assert_close(result.value, expected.detach())
    torch.testing.assert_close(result.losses.mean(0).sum(), expected.detach())
    torch.testing.assert_close(result.effective_size, torch.full((2,), float(k), dtype=torch.float64))
    for ours, other in zip(features, naive, strict=True):
        torch.testing.assert_close(ours.grad, other.grad)


def naive_distillation(features: Pair, reference: Pair, tau: torch.Tensor, reference_tau: float) -> torch.Tensor:
    student, teacher = features[0] @ features[1].T / tau, reference[0] @ reference[1].T / reference_tau
    total = torch.zeros((), dtype=torch.float64)
    for p, q in ((student, teacher), (student.T, teacher.T)):
        for i in range(N):
            total = total - (q[i].softmax(0) * p[i].log_softmax(0)).sum() / (2 * N)
    return total


@pytest.mark.parametrize("reference_temperature", [0.1, 0.5])
def test_distillation_is_added_to_the_loss_of_the_method(reference_temperature):
    reference = fixed(pair(3, 1))
    alone, both, naive = pair(5, 0), pair(5, 0), pair(5, 0)
    settings = {"temperature": 0.3, "learn_temperature": True, "distillation_temperature": reference_temperature}
    without, plain = run("openclip", alone, None, temperature=0.3)
    objective, result = run("distillation", both, reference, distillation_weight=2.5, **settings)
    log_scale = torch.tensor(-math.log(0.3), dtype=torch.float64, requires_grad=True)
    term = 2.5 * naive_distillation(naive, reference, torch.exp(-log_scale), reference_temperature)
    term.backward()
    torch.testing.assert_close(result.value, plain.value + term.detach())
    torch.testing.assert_close(result.parts["distillation"] * 2.5, term.detach())
    torch.testing.assert_close(objective.log_scale.grad, without.log_scale.grad + log_scale.grad)
    for ours, first, second in zip(both, alone, naive, strict=True):
        torch.testing.assert_close(ours.grad, first.grad + second.grad)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_taken_a_few_at_a_time_change_nothing(method, rows, monkeypatch):
    reference, valid = fixed(pair(3, 1)), torch.arange(N) != 2
    outcomes = []
    for elements in (10**6, rows * N):
        monkeypatch.setattr(contrastive_module, "CHUNK_ELEMENTS", elements)
        features = pair(5, 0)
        objective, result = run(method, features, reference, valid, temperature=0.3)
        state = u_of(objective)
        outcomes.append((result.value, result.weights[valid], result.effective_size, features[0].grad, features[1].grad, state))
    for whole, parts in zip(*outcomes, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any tensor has which is made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().size():  # a view or an expanded row holds no more
                self.elements = max(self.elements, tensor.untyped_storage().size() // tensor.element_size())
        return result


@pytest.mark.parametrize("method", [name for name in METHODS if "jest" not in name and name != "rho_topk"])
def test_no_tensor_is_larger_than_a_chunk_whatever_the_batch(method, monkeypatch):
    monkeypatch.setattr(contrastive_module, "CHUNK_ELEMENTS", 4096)
    for n in (256, 512, 1024):
        image, text = pair(2, 0, n)
        reference = fixed(pair(2, 1, n))
        objective = METHODS[method].parse({}).build(samples=n, epochs=1, reference_temperature=0.1).double()
        with LargestTensor() as seen:
            result = objective((image, text), reference, torch.arange(n), torch.ones(n, dtype=torch.bool), 0)
            result.loss.backward()
            pairwise_moments(GlobalBatch((image, text), reference, torch.ones(n, dtype=torch.bool)), steered=True)
        assert n * 4 <= seen.elements <= 4096 < n * n


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_could_not_be_read_takes_no_part(method):
    valid = torch.arange(N) != 2
    features, reference = pair(5, 0), fixed(pair(3, 1))
    _, result = run(method, features, reference, valid, temperature=0.3)
    with torch.no_grad():
        other = tuple(torch.where(valid[:, None], side, normalize(torch.ones_like(side), dim=1)) for side in features)
    changed = (other[0].requires_grad_(), other[1].requires_grad_())
    _, again = run(method, changed, reference, valid, temperature=0.3)
    torch.testing.assert_close(again.value, result.value)
    torch.testing.assert_close(again.effective_size, result.effective_size)
    for one, two in zip(features, changed, strict=True):
        assert one.grad[2].abs().max() == 0
        torch.testing.assert_close(one.grad, two.grad)


def test_gamma_is_constant_where_that_is_asked_for():
    built = [METHODS["fastclip"](gamma_min=0.3, gamma_schedule=kind).build(N, epochs=10) for kind in ("cosine", "constant")]
    assert [round(built[0].gamma(epoch), 2) for epoch in (0, 2, 5, 9)] == [1.0, 0.76, 0.3, 0.3]
    assert {built[1].gamma(epoch) for epoch in range(10)} == {0.3}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.5}, "gamma"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": -0.1}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"temperature": torch.tensor([0.1])}, r"temperature must be one number, got \[1\]"),
        ({"eps": -1e-3}, "eps"),
        ({"rho": -1.0}, "radius rho must be at least 0, got -1.0"),
        ({"rho": math.nan}, "radius rho must be at least 0"),
        ({"log_u": torch.zeros(N)}, r"log_u is \[7\]"),
        ({"log_u": torch.zeros(N, 2, dtype=torch.long)}, r"log_u is \[7, 2\] torch.int64"),
        ({"features": (pair(5, 0)[0], pair(5, 0, n=4)[1])}, r"the features are \[7, 5\] and \[4, 5\]"),
        ({"features": (pair(5, 0)[0], pair(5, 0)[1].float())}, "the features are torch.float64 and torch.float32"),
        ({"reference": fixed(pair(3, 1, n=4))}, r"the reference are \[4, 3\]"),
        ({"reference": (torch.ones(N, 3, dtype=torch.long),) * 2}, "torch.int64"),
        (
            {"reference": (pair(3, 1)[0].detach().half(), pair(3, 1)[1].detach())},
            "the reference are torch.float16 and torch.float64",
        ),
        ({"reference": (torch.full((N, 3), math.nan),) * 2}, "the reference must have unit norm"),
        ({"features": (torch.ones(N, 5), torch.ones(N, 5))}, r"unit norm, got \[\[?2.23"),
        (
            {"features": pair(5, 0, n=1), "reference": fixed(pair(3, 1, n=1)), "log_u": torch.zeros(1, 2)},
            "a batch of one sample has no negatives",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_function(changed, message):
    given = {"features": pair(5, 0), "reference": fixed(pair(3, 1)), "log_u": torch.full((N, 2), math.nan)}
    given |= {"temperature": 0.1, "gamma": 0.5, "eps": 1e-4} | changed
    positional = [given.pop(name) for name in ("features", "reference", "log_u")]
    with pytest.raises(DataError, match=message):
        global_contrastive_loss(*positional, **given)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("drrho", {"index": torch.arange(N) + 1}, "Samples 1 .. 7 of a dataset of 7"),
        ("fastclip", {"index": torch.arange(N) - 1}, "Samples -1 .. 5"),
        ("drrho", {"reference": None}, "needs the reference's features"),
        ("distillation", {"reference": None}, "needs the reference's features"),
        ("openclip", {"features": (torch.ones(N, 5), torch.ones(N, 5))}, "unit norm"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_objective(method, change, message):
    given = {"features": pair(5, 0), "reference": fixed(pair(3, 1)), "index": torch.arange(N)} | change
    objective = METHODS[method]().build(N, epochs=1).double()
    with pytest.raises(DataError, match=message):
        objective(given["features"], given["reference"], given["index"], torch.ones(N, dtype=torch.bool), 0)


@pytest.mark.parametrize("home", ["device", "shared"])
def test_an_index_that_is_out_of_range_later_on_is_refused_too(home, tmp_path):
    objective = METHODS["fastclip"](u_home=home, u_path=str(tmp_path)).build(N, epochs=1).double()
    valid = torch.ones(N, dtype=torch.bool)
    objective(pair(5, 0), None, torch.arange(N), valid, 0)
    for wrong in (torch.arange(N) - 1, torch.arange(N) + 1):
        with pytest.raises(DataError, match=rf"Samples {int(wrong[0])} .. {int(wrong[-1])} of a dataset of 7"):
            objective(pair(5, 0), None, wrong, valid, 0)


def value_of(method: str, features: Pair, reference: Pair) -> torch.Tensor:
    config = METHODS[method](temperature=0.3, **({"rho": 0.0} if method == "fastclip" else {}))
    objective = config.build(samples=N, epochs=1, reference_temperature=0.1).double()
    return objective(features, reference, torch.arange(N), torch.ones(N, dtype=torch.bool), 0).value


@pytest.mark.parametrize("method", ["openclip", "fastclip", "drrho", "drrho_cvar", "distillation"])
def test_the_gradient_is_that_of_finite_differences_of_the_objective(method):
    """On a first visit u is the batch's own. The paper's code divides by n in u and by n - 1 in the gradient."""
    features, reference = pair(3, 0), fixed(pair(3, 1))
    _, result = run(method, features, reference, temperature=0.3)
    factor = (N - 1) / N if method in ("fastclip", "drrho") else 1.0
    step = 1e-6
    for side in range(2):
        differences = torch.empty(N, 3, dtype=torch.float64)
        for place in range(differences.numel()):
            values = []
            for sign in (1, -1):
                moved = fixed(features)
                moved[side].view(-1)[place] += sign * step  # the norm, which is checked roughly, changes by as little
                values.append(value_of(method, moved, reference))
                moved[side].view(-1)[place] -= sign * step
            differences.view(-1)[place] = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(features[side].grad * factor, differences, rtol=1e-6, atol=1e-8)
    assert result.value == value_of(method, fixed(features), reference) or method == "fastclip"  # whose radius adds a constant
