"""Choosing a batch: against brute force on small super-batches, and what must hold of any choice."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch.nn.functional import normalize, softplus

from drrho_clip.errors import DataError
from drrho_clip.method import METHODS
from drrho_clip.method.objective import SelectedContrastive
from drrho_clip.method.selection import Scored, jest, rho_top_k

S = 12


def scored(seed: int, d: int = 4, temperature: float = 0.2) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(S, d, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    return Scored((image, text), temperature)


ALL = torch.ones(S, dtype=torch.bool)


def naive_losses(model: Scored, i: int, valid: torch.Tensor) -> float:
    z = model.features[0] @ model.features[1].T / model.temperature
    image = sum(math.exp(z[i, j]) for j in range(S) if valid[j])
    text = sum(math.exp(z[j, i]) for j in range(S) if valid[j])
    return (math.log(image) + math.log(text)) / 2 - float(z[i, i])


@pytest.mark.parametrize("invalid", [None, 3])
def test_rho_takes_the_largest_excess_losses(invalid):
    learner, reference, valid = scored(0), scored(1), ALL.clone()
    if invalid is not None:
        valid[invalid] = False
    excess = {i: naive_losses(learner, i, valid) - naive_losses(reference, i, valid) for i in range(S) if valid[i]}
    expected = sorted(sorted(excess, key=excess.__getitem__, reverse=True)[:5])
    assert rho_top_k(learner, reference, valid, 5).tolist() == expected


def naive_jest_top_k(learner: Scored, reference: Scored, size: int, chunks: int) -> list[int]:
    """Algorithm 1 with whole matrices."""

    def matrix(model: Scored) -> torch.Tensor:
        z = model.features[0] @ model.features[1].T / model.temperature - math.log(S - 1)
        return softplus(z * (1 - 2 * torch.eye(S)))

    scores = matrix(learner) - matrix(reference)
    chosen: list[int] = []
    for _ in range(chunks):
        gains = {j: scores[j, j] + sum(scores[i, j] + scores[j, i] for i in chosen) for j in range(S) if j not in chosen}
        chosen += sorted(gains, key=gains.__getitem__, reverse=True)[: size // chunks]
    return sorted(chosen)


@pytest.mark.parametrize("chunks", [1, 2, 3, 6])
def test_jest_top_k_is_the_algorithm_chunk_by_chunk(chunks):
    learner, reference = scored(2), scored(3)
    found = jest(learner, reference, ALL, 6, chunks=chunks, generator=None)
    assert found.tolist() == naive_jest_top_k(learner, reference, 6, chunks)


def test_jest_draws_in_proportion_to_the_exponential_of_learnability():
    learner, reference, generator = scored(4), scored(5), torch.Generator().manual_seed(0)
    bias = math.log(S - 1)
    own = softplus(bias - learner.own_logits()) - softplus(bias - reference.own_logits())
    draws = torch.cat([jest(learner, reference, ALL, 1, chunks=1, generator=generator) for _ in range(4000)])
    frequency = draws.bincount(minlength=S) / len(draws)
    torch.testing.assert_close(frequency.double(), own.softmax(0), atol=0.03, rtol=0)


def test_where_the_reference_is_the_learner_the_seed_alone_chooses():
    first, other = (scored(seed) for seed in (6, 7))
    picks = [
        jest(m, m, ALL, 4, chunks=2, generator=torch.Generator().manual_seed(seed)) for m in (first, other) for seed in (1, 2)
    ]
    assert torch.equal(picks[0], picks[2])
    assert torch.equal(picks[1], picks[3])
    assert not torch.equal(picks[0], picks[1])


@pytest.mark.parametrize("drawn", [True, False])
def test_a_choice_has_no_sample_twice_and_none_that_could_not_be_read(drawn):
    valid = torch.arange(S) % 3 != 0
    generator = torch.Generator().manual_seed(0) if drawn else None
    found = jest(scored(8), scored(9), valid, 6, chunks=4, generator=generator).tolist()
    assert found == sorted(set(found))
    assert len(found) == 6
    assert all(valid[found])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_taken_a_few_at_a_time_choose_the_same(rows, monkeypatch):
    learner, reference = scored(8), scored(9)
    whole = (rho_top_k(learner, reference, ALL, 6), jest(learner, reference, ALL, 6, chunks=2, generator=None))
    monkeypatch.setattr("drrho_clip.method.selection.CHUNK_ELEMENTS", rows * S)
    parts = (rho_top_k(learner, reference, ALL, 6), jest(learner, reference, ALL, 6, chunks=2, generator=None))
    assert [part.tolist() for part in parts] == [part.tolist() for part in whole]


@pytest.mark.parametrize("method", ["rho_topk", "jest", "jest_topk"])
def test_a_super_batch_that_is_smaller_than_the_batch_is_refused(method):
    objective = cast(SelectedContrastive, METHODS[method]().build(samples=S, epochs=1).double())
    features, reference = scored(0).features, scored(1).features
    with pytest.raises(DataError, match=rf"A batch of {S + 1} cannot be chosen from {S} samples.*larger super-batch"):
        objective.select(features, reference, torch.arange(S), ALL, size=S + 1, generator=torch.Generator())
