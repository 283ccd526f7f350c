"""What the advisor reads off a reference's features."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from drrho_clip.errors import DataError
from drrho_clip.method.advice import effective_negatives, information, negative_similarities, recommend


def pairs(n: int, *, agreement: float, exchanged: float = 0.0, dim: int = 24, seed: int = 0) -> Tensor:
    """Features [n, 2, dim]: the text is the image's direction and noise; of the last share the texts belong to each other."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)
    noise = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)
    text = torch.nn.functional.normalize(agreement * image + (1 - agreement) * noise, dim=1)
    first = n - round(n * exchanged)
    text[first:] = text[first:].roll(1, 0)
    order = torch.randperm(n, generator=generator)
    return torch.stack([image, text], 1)[order]


def flattened(features: Tensor, share: float) -> Tensor:
    """Features whose similarities are share * s + (1 - share): all of them in a cone, as those of real CLIP models are."""
    ones = torch.ones(*features.shape[:2], 1)
    return torch.cat([features * math.sqrt(share), ones * math.sqrt(1 - share)], 2)


def test_the_effective_number_is_of_negatives_alone():
    features = pairs(40, agreement=0.9)
    rows = negative_similarities((features[:, 0], features[:, 1]))
    assert rows.shape == (80, 40)
    assert rows.isneginf().sum() == 80
    assert rows.isneginf().nonzero()[:, 1].tolist() == [*range(40), *range(40)]
    assert effective_negatives(rows, 1e6) == pytest.approx(39, abs=1e-3)
    assert effective_negatives(rows, 1e-4) == pytest.approx(1, abs=0.05)
    naive = []
    for row in (rows / 0.3).tolist():
        weights = [math.exp(value) for value in row]
        naive.append(sum(weights) ** 2 / sum(weight**2 for weight in weights))
    assert effective_negatives(rows, 0.3) == pytest.approx(sum(naive) / 80, rel=1e-5)


def test_the_temperature_is_the_one_of_the_rule():
    features = pairs(256, agreement=0.8)
    deviations = []
    for side in range(2):
        similarity = (features[:, side].double() @ features[:, 1 - side].double().T).tolist()
        deviations += [statistics.pstdev([*row[:i], *row[i + 1 :]]) for i, row in enumerate(similarity)]
    sigma = statistics.fmean(deviations)
    found = recommend(features, 256)
    assert found.spread == pytest.approx(sigma, rel=1e-5)
    assert found.temperature == pytest.approx(1.25 * sigma / math.sqrt(2 * math.log(256)), rel=1e-5)
    assert found.eps == pytest.approx(math.exp(-sigma / found.temperature), rel=1e-5)
    rows = negative_similarities((features[:, 0], features[:, 1]))
    assert found.effective_negatives == pytest.approx(effective_negatives(rows, found.temperature), rel=1e-6)
    given = recommend(features, 256, temperature=0.5)
    assert (given.temperature, given.eps) == (0.5, pytest.approx(math.exp(-sigma / 0.5), rel=1e-5))
    assert recommend(features.flip(1), 256).temperature == pytest.approx(found.temperature, rel=1e-5)


@pytest.mark.parametrize("batch", [64, 256, 1024])
def test_no_single_negative_rules_a_batch_at_that_temperature(batch: int):
    features = pairs(1024, agreement=0.8, dim=256)  # many dimensions: similarities are normally distributed
    found = recommend(features, batch)
    rows = negative_similarities((features[:batch, 0], features[:batch, 1]))
    largest = [(rows / (factor * found.temperature)).softmax(1).amax(1).mean().item() for factor in (0.25, 1, 4)]
    assert largest[0] > 0.6
    assert 0.1 < largest[1] < 0.35
    assert largest[2] < 0.06


def test_more_negatives_take_a_lower_temperature():
    features = pairs(2048, agreement=0.8)
    temperatures = [recommend(features, batch).temperature for batch in (2, 16, 256, 2048, 100_000)]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[2] / temperatures[4] == pytest.approx(math.sqrt(math.log(100_000) / math.log(256)), rel=0.02)


def test_a_reference_that_tells_nothing_apart_gets_a_temperature_that_can_be_used():
    constant = torch.nn.functional.normalize(torch.ones(64, 2, 8), dim=2)
    found = recommend(constant, 32)
    assert found[:2] == (0.002, 1.0)
    assert ", kept within 0.002 .. 1.0: " in found.why("temperature", 32)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_temperature_follows_the_spread_of_the_similarities_and_eps_does_not(share: float):
    features = pairs(512, agreement=0.8, exchanged=0.25)
    wide, narrow = recommend(features, 256), recommend(flattened(features, share), 256)
    assert narrow.temperature == pytest.approx(share * wide.temperature, rel=5e-3)
    assert narrow.eps == pytest.approx(wide.eps, rel=2e-2)
    assert narrow.dropped == pytest.approx(wide.dropped, abs=1e-9)


@pytest.mark.parametrize("exchanged", [0.0, 0.1, 0.4])
def test_wrong_pairs_are_those_that_would_drop_out(exchanged: float):
    assert recommend(pairs(1000, agreement=0.85, exchanged=exchanged), 256).dropped == pytest.approx(exchanged, abs=0.02)


def test_too_few_pairs_are_refused():
    with pytest.raises(DataError, match=r"15 pairs are too few.*Set temperature and eps"):
        recommend(pairs(15, agreement=0.9), 256)


def test_information_goes_from_chance_to_all_of_it():
    perfect = torch.eye(64)[:, None].expand(64, 2, 64)
    assert information(perfect) == pytest.approx(6.0, abs=1e-3)
    assert information(pairs(256, agreement=0.0)) < 0.05
    known = [information(pairs(256, agreement=agreement)) for agreement in (0.3, 0.5, 0.7)]
    assert known == sorted(known)
    assert 0.3 < known[0] < known[2] <= 8
    assert information(flattened(pairs(256, agreement=0.5), 0.2)) == pytest.approx(known[1], abs=0.03)
    assert information(pairs(256, agreement=0.5).half()) == pytest.approx(known[1], abs=1e-2)
