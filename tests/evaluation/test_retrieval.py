"""Recall at k on vectors whose result is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from drrho_clip.evaluation import retrieval
from drrho_clip.evaluation.retrieval import Pairs, evaluate_retrieval, own_ranks


def pairs(images: Tensor, texts: Tensor, **changes: Any) -> Pairs:
    """Pairs of images and texts [n, dim], all different and all queries unless `changes` say otherwise."""
    everything = torch.ones(len(images), dtype=torch.bool)
    names = range(len(images))
    return replace(Pairs(torch.stack([images, texts], dim=1), names, names, query=everything, owned=everything), **changes)


def shares(scores: dict) -> dict[int, float]:
    return {k: score.value for k, score in scores.items()}


SIMILARITIES = (
    # to the images 0, 1, 2, 3; five captions of image 0, then of 1, of 2, of 3
    *((9, 1, 0, 0), (8, 1, 0, 0), (1, 8, 0, 0), (1, 7, 0, 0), (1, 6, 0, 0)),
    *((0, 5, 0, 0), (0, 4, 2, 0), (0, 3, 4, 0), (0, 2, 4, 0), (0, 1, 4, 0)),
    *((0, 0, 3, 9), (0, 0, 3, 8), (0, 0, 3, 7), (0, 0, 3, 6), (0, 0, 3, 5)),
    *((0, 0, 9, 4), (0, 0, 8, 3), (0, 0, 7, 3), (0, 0, 6, 3), (0, 0, 5, 3)),
)


def test_four_images_of_five_captions_each():
    of = torch.arange(20) // 5
    given = pairs(torch.eye(4)[of], torch.tensor(SIMILARITIES, dtype=torch.float32))
    found = evaluate_retrieval(replace(given, images=of.tolist()))
    assert (found.images, found.captions, found.candidate_images, found.candidate_captions) == (4, 20, 4, 20)
    # Down the columns, the best caption of its own comes first for image 0, fourth for 1, ninth for 2, sixth for 3.
    assert shares(found.image_to_text) == {1: 0.25, 5: 0.5, 10: 1.0}
    # Along the rows, four captions are most similar to their own image. Of four images, the first five are all of them.
    assert shares(found.text_to_image) == {1: 0.2}
    assert found.text_to_image[1].standard_error == pytest.approx(math.sqrt(0.2 * 0.8 / 20))


def test_perfect_and_swapped_features():
    eye = torch.eye(12)
    assert shares(evaluate_retrieval(pairs(eye, eye)).image_to_text) == {1: 1, 5: 1, 10: 1}
    swapped = evaluate_retrieval(pairs(eye, eye.roll(1, dims=0)))
    assert shares(swapped.image_to_text) == shares(swapped.text_to_image) == {1: 0, 5: 0, 10: 0}


@pytest.mark.parametrize("value", [1.0, 0.0, float("nan")])
def test_a_collapsed_model_scores_nothing(value: float):
    same = torch.full((30, 4), value)
    found = evaluate_retrieval(pairs(same, same))
    assert shares(found.image_to_text) == shares(found.text_to_image) == {1: 0, 5: 0, 10: 0}


@pytest.mark.parametrize(("count", "ks"), [(1, ()), (2, (1,)), (5, (1,)), (6, (1, 5)), (11, (1, 5, 10))])
def test_only_k_below_the_number_of_candidates(count: int, ks: tuple[int, ...]):
    eye = torch.eye(count)
    found = evaluate_retrieval(pairs(eye, eye))
    assert tuple(found.image_to_text) == tuple(found.text_to_image) == ks


def test_equal_captions_count_as_one_text():
    axes = torch.eye(3)
    found = evaluate_retrieval(pairs(axes[[0, 1, 2]], axes[[0, 0, 2]], captions=["a cat", "a cat", "a dog"]))
    assert (found.images, found.captions, found.candidate_captions) == (3, 2, 2)
    assert shares(found.image_to_text) == {1: pytest.approx(2 / 3)}  # the middle image is like neither: a tie counts against it
    assert shares(found.text_to_image) == {1: 1.0}  # either cat is right


def test_candidates_of_the_whole_dataset_are_rivals_but_no_queries():
    axes = torch.eye(4)
    images, texts = axes[[0, 1, 0, 1]], axes[[0, 1, 0, 2]]
    query = torch.tensor([True, True, False, False])
    found = evaluate_retrieval(pairs(images, texts, query=query))
    assert (found.images, found.captions, found.candidate_images, found.candidate_captions) == (2, 2, 4, 4)
    assert shares(found.image_to_text) == {1: 0.5}  # the third text is as close to image 0 as its own: a tie counts against it
    assert shares(found.text_to_image) == {1: 0.0}


@pytest.mark.parametrize("owned", [True, False])
def test_a_pair_outside_the_split_belongs_together_unless_it_was_exchanged(owned: bool):
    axes = torch.eye(3)
    of = torch.tensor([True, True, owned])
    found = evaluate_retrieval(
        pairs(axes[[0, 1, 2]], axes[[2, 1, 2]], captions=["x", "y", "x"], query=torch.tensor([True, True, False]), owned=of)
    )
    assert found.text_to_image[1].value == (1.0 if owned else 0.5)  # "x" finds the third image


@pytest.mark.parametrize("limit", [1, 7, 50, 10**6])
def test_chunks_and_a_naive_count_agree(monkeypatch: pytest.MonkeyPatch, limit: int):
    monkeypatch.setattr(retrieval, "MAX_SIMILARITIES", limit)
    generator = torch.Generator().manual_seed(5)
    queries, candidates = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (23, 31))
    own = torch.unique(torch.stack([torch.randint(n, (60,), generator=generator) for n in (23, 31)], dim=1), dim=0)
    own = torch.cat([own, torch.stack([torch.arange(23), torch.arange(23)], dim=1)])
    similarity = (queries @ candidates.T).tolist()
    expected = []
    for query, row in enumerate(similarity):
        mine = {c for q, c in own.tolist() if q == query}
        best = max(row[c] for c in mine)
        expected.append(1 + sum(row[c] >= best for c in range(31) if c not in mine))
    assert own_ranks(queries, candidates, own).tolist() == expected
