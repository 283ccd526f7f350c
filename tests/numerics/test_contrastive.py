"""The objectives against naive float64 formulas, the paper's own numbers, and what theory says of special cases."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from drrho_clip.method import METHODS, global_contrastive_loss
from drrho_clip.method.global_loss import moving_average
from drrho_clip.method.risk import kl_fixed

NAN = torch.nan


def pair(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


def naive_global_loss(features, reference, log_u, *, tau, gamma, eps, rho):
    """The formulas of the paper's code as a double loop over anchors and negatives."""
    image, text = features
    n = len(image)
    ref = reference[0] @ reference[1].T if reference else torch.zeros(n, n, dtype=torch.float64)
    s = image @ text.T - ref
    scale = 1 / tau
    new = torch.empty(n, 2, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for side in range(2):
        for i in range(n):
            d = [scale * ((s[i, j] if side == 0 else s[j, i]) - s[i, i]) for j in range(n) if j != i]
            batch = math.log(eps + sum(math.exp(x.item()) for x in d) / n)
            old = float(log_u[i, side])
            new[i, side] = batch if math.isnan(old) else math.log((1 - gamma) * math.exp(old) + gamma * math.exp(batch))
            total = total + sum(math.exp(x.item() - new[i, side].item()) * x for x in d) / (n - 1)
    return total / n / scale.detach() + rho / scale + new.sum(1).mean() / (2 * scale), new


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_the_global_loss_is_the_naive_double_loop(steered, gamma):
    features, naive_features = pair(7, 5, 0), pair(7, 5, 0)
    reference = tuple(side.detach() for side in pair(7, 3, 1)) if steered else None
    log_u = torch.tensor([[NAN, 0.3], [0.1, -1.0]] + [[0.2, 0.4]] * 5, dtype=torch.float64)
    taus = [torch.tensor(0.3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    settings = {"gamma": gamma, "eps": 1e-3, "rho": 2.0}
    loss, new = global_contrastive_loss(features, reference, log_u, temperature=taus[0], **settings)
    expected, expected_u = naive_global_loss(naive_features, reference, log_u, tau=taus[1], **settings)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(new, expected_u)
    for ours, naive in zip((*features, taus[0]), (*naive_features, taus[1]), strict=True):
        torch.testing.assert_close(ours.grad, naive.grad)


def test_the_signature_is_the_one_that_was_promised():
    signature = inspect.signature(global_contrastive_loss)
    kinds = [(p.name, p.kind.name, p.default) for p in signature.parameters.values()]
    positional, named = "POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY"
    required = inspect.Parameter.empty
    assert kinds[:3] == [(name, positional, required) for name in ("features", "reference", "log_u")]
    assert kinds[3:] == [*((name, named, required) for name in ("temperature", "gamma", "eps")), ("rho", named, 0.0)]


def test_a_temperature_may_be_a_float_and_is_then_as_exact_as_the_features():
    features, log_u = pair(6, 4, 7), torch.full((6, 2), NAN, dtype=torch.float64)
    given = [0.3, torch.tensor(0.3, dtype=torch.float64)]
    losses = [global_contrastive_loss(features, None, log_u, temperature=tau, gamma=0.5, eps=1e-3, rho=2.0) for tau in given]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-14, atol=0)
    assert not losses[0][1].requires_grad
    single = tuple(side.detach().float() for side in features)
    loss, new = global_contrastive_loss(single, None, log_u.float(), temperature=0.3, gamma=0.5, eps=1e-3, rho=2.0)
    assert loss.dtype == new.dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "scale", "eps", "steered"), [("fastclip", 1 / 0.07, 1e-14, False), ("drrho", 100.0, 1e-4, True)]
)
def test_four_steps_agree_with_the_papers_implementation(method, scale, eps, steered):
    stored = np.load(Path(__file__).parent / "paper_vectors.npz")
    image, text, ref_image, ref_text = (torch.from_numpy(stored[key]) for key in ("img", "txt", "ref_img", "ref_txt"))
    log_u = torch.full((96, 2), NAN, dtype=torch.float64)
    for step, batch in enumerate(torch.from_numpy(stored["batches"])):
        features = image[batch].requires_grad_(), text[batch].requires_grad_()
        log_scale = torch.tensor(math.log(scale), dtype=torch.float64, requires_grad=True)
        reference = (ref_image[batch], ref_text[batch]) if steered else None
        loss, log_u[batch] = global_contrastive_loss(
            features, reference, log_u[batch], temperature=torch.exp(-log_scale), gamma=0.6, eps=eps, rho=11.0
        )
        loss.backward()
        seen = torch.nan_to_num(log_u, 0.0)
        ours = (loss.detach(), features[0].grad, features[1].grad, log_scale.grad, seen[:, 0], seen[:, 1])
        for name, value in zip(("loss", "gi", "gt", "glogscale", "u_im", "u_tt"), ours, strict=True):
            torch.testing.assert_close(value, torch.as_tensor(stored[f"{method}/{step}/{name}"]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("steered", [False, True])
def test_the_whole_dataset_as_one_batch_is_the_exact_objective(steered):
    """The paper's code divides the sum in u by n where the formula has n - 1 negatives: the one factor between the two."""
    n, tau = 9, 0.3
    features, exact_features = pair(n, 5, 2), pair(n, 5, 2)
    reference = tuple(side.detach() for side in pair(n, 3, 3)) if steered else None
    unseen = torch.full((n, 2), NAN, dtype=torch.float64)
    loss, log_u = global_contrastive_loss(features, reference, unseen, temperature=tau, gamma=1.0, eps=0.0)
    loss.backward()
    exact = exact_objective(exact_features, reference, tau)
    exact.backward()
    torch.testing.assert_close(tau * log_u.sum(1).mean(), exact.detach() + 2 * tau * math.log((n - 1) / n))
    for ours, wanted in zip(features, exact_features, strict=True):
        torch.testing.assert_close(ours.grad * (n - 1) / n, wanted.grad)


def exact_objective(features, reference, tau):
    """Mean over anchors of both sides' KL-constrained risk of their negatives, at fixed tau, from the risk's own function."""
    image, text = features
    n = len(image)
    others = ~torch.eye(n, dtype=torch.bool)

    def losses(similarity):
        return (similarity - similarity.diagonal()[:, None])[others].view(n, n - 1)

    similarity = image @ text.T
    of_reference = reference[0] @ reference[1].T if reference else torch.zeros_like(similarity)
    sides = [
        kl_fixed(losses(s), losses(r), temperature=tau).value
        for s, r in ((similarity, of_reference), (similarity.T, of_reference.T))
    ]
    return sides[0].mean() + sides[1].mean()


def test_openclip_is_the_symmetric_cross_entropy():
    features, plain = pair(9, 6, 3), pair(9, 6, 3)
    objective = METHODS["openclip"](temperature=0.2).build(samples=9, epochs=1).double()
    log_scale = objective.log_scale.detach().clone().requires_grad_()
    logits = plain[0] @ plain[1].T * log_scale.exp()
    expected = (cross_entropy(logits, torch.arange(9)) + cross_entropy(logits.T, torch.arange(9))) / 2
    result = objective(features, None, torch.arange(9), torch.ones(9, dtype=torch.bool), 0)
    result.loss.backward()
    expected.backward()
    torch.testing.assert_close(result.value, expected.detach())
    torch.testing.assert_close(objective.log_scale.grad, log_scale.grad)
    for ours, theirs in zip(features, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("method", METHODS)
def test_a_masked_sample_is_as_if_it_was_not_there(method):
    whole, part = pair(8, 5, 4), pair(8, 5, 4)
    reference = tuple(side.detach() for side in pair(8, 3, 5))
    valid = torch.tensor([True, True, False, True, True, True, False, True])
    config = METHODS[method](temperature=0.3)
    masked = config.build(samples=8, epochs=4).double()(whole, reference, torch.arange(8), valid, 1)
    small_features, small_reference = ([side[valid] for side in both] for both in (part, reference))
    small = config.build(samples=8, epochs=4).double()(small_features, small_reference, torch.arange(8)[valid], valid[valid], 1)
    masked.loss.backward()
    small.loss.backward()
    torch.testing.assert_close(masked.value, small.value)
    torch.testing.assert_close(masked.effective_size, small.effective_size)
    for ours, theirs in zip(whole, part, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert not ours.grad[~valid].any()


def steered_gradient(features, reference, eps=1e-3):
    log_u = torch.full((len(features[0]), 2), NAN, dtype=torch.float64)
    loss, new = global_contrastive_loss(features, reference, log_u, temperature=0.3, gamma=1.0, eps=eps)
    return torch.autograd.grad(loss, features), new


def test_a_reference_of_constant_loss_is_no_reference():
    features = pair(6, 4, 6)
    constant = torch.ones(6, 1, dtype=torch.float64)
    steered, plain = steered_gradient(features, (constant, constant)), steered_gradient(features, None)
    torch.testing.assert_close(steered, plain)


def test_a_reference_equal_to_the_target_gives_uniform_weights():
    features = pair(6, 4, 7)
    _, log_u = steered_gradient(features, tuple(side.detach() for side in features), eps=0.0)
    torch.testing.assert_close(log_u, torch.full_like(log_u, math.log(5 / 6)))


def easier_pair(reference, anchor, shift):
    """The reference with l_ref(anchor, j) raised by `shift` for all j, on both sides: a dimension of its own for each sample."""
    sides = [torch.cat([side / 2, torch.zeros(len(side), len(side) + 2, dtype=side.dtype)], 1) for side in reference]
    own = reference[0].shape[1] + anchor
    sides[0][anchor, own], sides[1][anchor, own] = -math.sqrt(shift), math.sqrt(shift)
    for number, side in enumerate(sides):
        side[:, -1 - number] = (1 - side.square().sum(1)).sqrt()  # to unit norm, where the other side has nothing
    return tuple(sides)


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_shifting_the_reference_losses_of_an_anchor_changes_how_much_it_counts_only_with_eps(eps):
    n, tau, anchor, shift = 6, 0.3, 2, 0.5
    plain = tuple(side.detach() for side in pair(n, 3, 9))
    outcomes = []
    for c in (0.0, shift):
        features, reference = pair(n, 4, 8), easier_pair(plain, anchor, c)
        gradient, log_u = steered_gradient(features, reference, eps=eps)
        objective = METHODS["drrho"](temperature=tau, eps=eps).build(samples=n, epochs=1).double()
        result = objective(features, reference, torch.arange(n), torch.ones(n, dtype=torch.bool), 0)
        u = log_u.exp() - eps
        # each anchor's own gradient, as if eps were 0, times the share that the formula leaves it
        similarity = features[0] @ features[1].T - reference[0] @ reference[1].T
        others = ~torch.eye(n, dtype=torch.bool)
        total = torch.zeros((), dtype=torch.float64)
        for side, s in enumerate((similarity, similarity.T)):
            shifted = (s - s.diagonal()[:, None])[others].view(n, n - 1)
            total = total + ((u / (u + eps))[:, side] * tau * (shifted / tau).logsumexp(1)).mean()
        for ours, expected in zip(gradient, torch.autograd.grad(total, features), strict=True):
            torch.testing.assert_close(ours * (n - 1) / n, expected)
        torch.testing.assert_close(result.weights, u / (u + eps), rtol=1e-6, atol=1e-9)
        outcomes.append((gradient, log_u, u))
    (before, log_u, u), (after, new_log_u, new_u) = outcomes
    expected = u.clone()
    expected[anchor] *= math.exp(-shift / tau)
    torch.testing.assert_close(new_u, expected)
    assert not torch.allclose(new_log_u[anchor], log_u[anchor], atol=0.1)  # its value
    same = all(torch.allclose(one, two, rtol=1e-9, atol=1e-12) for one, two in zip(before, after, strict=True))
    assert same is (eps == 0)


@pytest.mark.parametrize(("method", "floor", "count"), [("drrho", 0.2, 6), ("fastclip", 1e-14, 6), ("openclip", 1.0, 1)])
def test_the_weight_of_an_anchor_is_what_its_negatives_bring_of_the_normaliser(method, floor, count):
    """u / (eps + u) with the mean u over the batch; of the cross-entropy 1 - the probability of the true pair."""
    features, reference = pair(6, 4, 8), tuple(side.detach() for side in pair(6, 3, 9))
    config = METHODS[method](temperature=0.3, **({} if method == "openclip" else {"eps": floor}))
    result = config.build(samples=6, epochs=1).double()(features, reference, torch.arange(6), torch.ones(6, dtype=torch.bool), 0)
    similarity = features[0] @ features[1].T - (reference[0] @ reference[1].T if method == "drrho" else 0)
    for side, scores in enumerate((similarity, similarity.T)):
        u = (torch.exp((scores - scores.diag()[:, None]) / 0.3).sum(1) - 1) / count
        torch.testing.assert_close(result.weights[:, side], u / (floor + u), rtol=1e-6, atol=1e-6)


def test_u_is_the_moving_average_from_its_definition():
    log_u = torch.full((1, 2), NAN, dtype=torch.float64)
    values = [0.5, 2.0, 0.1, 7.0]
    expected = values[0] + 0.01
    for visit, value in enumerate(values):
        log_u = moving_average(
            log_u, torch.full((1, 2), math.log(value * 8), dtype=torch.float64), torch.tensor(8), gamma=0.3, eps=0.01
        )
        expected = expected if visit == 0 else 0.7 * expected + 0.3 * (value + 0.01)
    torch.testing.assert_close(log_u.exp(), torch.full((1, 2), expected, dtype=torch.float64))


def test_gamma_falls_from_one_to_its_floor_over_the_decay_epochs():
    objective = METHODS["fastclip"](gamma_min=0.6).build(samples=4, epochs=10)
    assert objective.decay_epochs == 5
    assert objective.gamma(0) == 1.0
    assert objective.gamma(5) == objective.gamma(9) == pytest.approx(0.6)
    assert all(objective.gamma(e) > objective.gamma(e + 1) for e in range(5))


def test_the_recommended_floor_of_gamma():
    assert METHODS["fastclip"]().build(samples=4, epochs=40).gamma(20) == pytest.approx(4.177 * 20**-0.7265)
    assert METHODS["fastclip"]().build(samples=4, epochs=7).gamma(4) == 1.0


@pytest.mark.parametrize(("start", "kept"), [(0.001, 0.01), (0.5, 0.5)])
def test_a_learnt_temperature_stays_within_its_bounds(start, kept):
    objective = METHODS["openclip"](temperature=start).build(samples=4, epochs=1)
    objective.clamp()
    assert objective.temperature.item() == pytest.approx(kept)


def test_a_constant_temperature_is_left_as_it_was_set():
    objective = METHODS["drrho"](temperature=0.005).build(samples=4, epochs=1)
    objective.clamp()
    assert objective.temperature.item() == pytest.approx(0.005)
    assert not objective.log_scale.requires_grad
