"""The variances of pairwise losses against a naive computation, and their exact merging."""

import pytest
import torch
from torch.nn.functional import normalize

from drrho_clip.method import contrastive
from drrho_clip.method.contrastive import GlobalBatch
from drrho_clip.method.variance import Moments, pairwise_moments


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def naive(similarity: torch.Tensor, valid: torch.Tensor) -> list[float]:
    kept = [i for i in range(len(valid)) if valid[i]]
    image = [float(similarity[i, j] - similarity[i, i]) for i in kept for j in kept if i != j]
    text = [float(similarity[j, i] - similarity[i, i]) for i in kept for j in kept if i != j]
    return [float(torch.tensor(values, dtype=torch.float64).var(unbiased=False)) for values in (image, text)]


@pytest.mark.parametrize("elements", [2**19, 18])  # all rows at once, and two of the nine
def test_variances_are_over_valid_off_diagonal_pairs_with_and_without_the_reference(elements, monkeypatch):
    monkeypatch.setattr(contrastive, "CHUNK_ELEMENTS", elements)
    image, text, ref_image, ref_text = unit(9, 5, 0), unit(9, 5, 1), unit(9, 4, 2), unit(9, 4, 3)
    valid = torch.tensor([True] * 6 + [False, True, True])
    batch = GlobalBatch((image, text), (ref_image.half(), ref_text.half()), valid)
    target, rho = pairwise_moments(batch), pairwise_moments(batch, steered=True)
    reference = ref_image.half().double() @ ref_text.half().double().T
    similarity = image.double() @ text.double().T
    for found, expected in ((target, naive(similarity, valid)), (rho, naive(similarity - reference, valid))):
        assert found.pairs.tolist() == [56.0, 56.0]
        torch.testing.assert_close(found.variance, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def test_a_batch_without_pairs_has_no_variance_and_adds_nothing():
    one = pairwise_moments(GlobalBatch((unit(3, 5, 0), unit(3, 5, 1)), None, torch.tensor([False, True, False])))
    assert one.pairs.tolist() == one.variance.tolist() == [0.0, 0.0]
    more = pairwise_moments(GlobalBatch((unit(3, 5, 0), unit(3, 5, 1)), None, torch.ones(3, dtype=torch.bool)))
    for merged in (one.merge(more), more.merge(one)):
        torch.testing.assert_close(torch.stack(merged), torch.stack(more))


def moments(values: torch.Tensor) -> Moments:
    return Moments(torch.tensor(float(len(values))), values.mean(), (values - values.mean()).square().sum())


def test_merged_moments_are_those_of_all_values():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1e3
    merged = moments(values[:7]).merge(moments(values[7:60])).merge(moments(values[60:]))
    torch.testing.assert_close(merged.variance, values.var(unbiased=False))
    torch.testing.assert_close(merged.mean, values.mean())
