"""The variances of pairwise losses against a naive computation, and their exact merging."""

import torch
from torch.nn.functional import normalize

from drrho_clip.method.variance import Moments, minus_reference, pairwise_moments


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def naive(similarity: torch.Tensor, valid: torch.Tensor) -> list[float]:
    kept = [i for i in range(len(valid)) if valid[i]]
    image = [float(similarity[i, j] - similarity[i, i]) for i in kept for j in kept if i != j]
    text = [float(similarity[j, i] - similarity[i, i]) for i in kept for j in kept if i != j]
    return [float(torch.tensor(values, dtype=torch.float64).var(unbiased=False)) for values in (image, text)]


def test_variances_are_over_valid_off_diagonal_pairs_with_and_without_the_reference():
    image, text, ref_image, ref_text = unit(9, 5, 0), unit(9, 5, 1), unit(9, 4, 2), unit(9, 4, 3)
    valid = torch.tensor([True] * 6 + [False, True, True])
    target = pairwise_moments((image, text), valid).variance
    rho = pairwise_moments(minus_reference((image, text), (ref_image.half(), ref_text.half())), valid).variance
    reference = ref_image.half().double() @ ref_text.half().double().T
    similarity = image.double() @ text.double().T
    torch.testing.assert_close(target, torch.tensor(naive(similarity, valid), dtype=torch.float64), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(rho, torch.tensor(naive(similarity - reference, valid), dtype=torch.float64), rtol=1e-5, atol=1e-7)


def moments(values: torch.Tensor) -> Moments:
    return Moments(torch.tensor(float(len(values))), values.mean(), (values - values.mean()).square().sum())


def test_merged_moments_are_those_of_all_values():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1e3
    merged = moments(values[:7]).merge(moments(values[7:60])).merge(moments(values[60:]))
    torch.testing.assert_close(merged.variance, values.var(unbiased=False))
    torch.testing.assert_close(merged.mean, values.mean())
