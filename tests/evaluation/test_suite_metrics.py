"""The metrics of suites, equal to scikit-learn's and to plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, jaccard_score, top_k_accuracy_score

from drrho_clip.evaluation.suite import metrics
from drrho_clip.evaluation.suite.metrics import group_shares, jaccard, macro_f1, mean_per_class_recall, rank_classes, top_k


def drawn(seed: int, images: int = 200, classes: int = 12, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, a classifier and labels; some classes are rare, and the last two have no images."""
    generator = torch.Generator().manual_seed(seed)
    classifier = torch.nn.functional.normalize(torch.randn(classes, dim, generator=generator), dim=-1)
    labels = (torch.rand(images, generator=generator) ** 2 * (classes - 2)).long()
    noise = torch.randn(images, dim, generator=generator)
    return torch.nn.functional.normalize(classifier[labels] + 0.5 * noise, dim=-1), classifier, labels


@pytest.mark.parametrize("seed", range(5))
def test_classification_equals_scikit_learn(seed: int, monkeypatch: pytest.MonkeyPatch):
    images, classifier, labels = drawn(seed)
    monkeypatch.setattr(metrics, "MAX_SIMILARITIES", 12 * 37)  # in six parts
    ranks, predictions = rank_classes(images, classifier, labels)
    similarity = images @ classifier.T
    assert torch.equal(predictions, similarity.argmax(dim=1))
    for k in (1, 5):
        assert top_k(ranks, k) == pytest.approx(top_k_accuracy_score(labels, similarity, k=k, labels=range(12)))
    assert mean_per_class_recall(predictions, labels) == pytest.approx(balanced_accuracy_score(labels, predictions))
    expected = f1_score(labels, predictions, average="macro", labels=labels.unique(), zero_division=0)
    assert macro_f1(predictions, labels) == pytest.approx(expected)
    assert 0.2 < expected < 0.95  # neither all right nor all wrong


def test_a_class_that_is_predicted_and_has_no_images_counts_only_as_wrong():
    predictions, labels = torch.tensor([0, 2, 1, 1]), torch.tensor([0, 0, 1, 1])
    assert macro_f1(predictions, labels) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_per_class_recall(predictions, labels) == 0.75


def test_classes_as_similar_are_taken_in_their_order():
    ranks, predictions = rank_classes(torch.ones(4, 3), torch.ones(4, 3), torch.arange(4))
    assert (ranks.tolist(), predictions.tolist()) == ([1, 2, 3, 4], [0, 0, 0, 0])


@pytest.mark.parametrize("seed", range(3))
def test_shares_of_groups_equal_a_loop(seed: int):
    generator = np.random.default_rng(seed)
    hits, groups = generator.random(90) < 0.4, [str(g) for g in generator.integers(0, 5, 90)]
    expected: dict[str, list[bool]] = {}
    for hit, group in zip(hits, groups, strict=True):
        expected.setdefault(group, []).append(bool(hit))
    shares = group_shares(torch.tensor(hits), groups)
    assert shares == {group: (len(found), pytest.approx(np.mean(found))) for group, found in expected.items()}
    assert list(shares) == sorted(shares)


@pytest.mark.parametrize("seed", range(5))
def test_jaccard_equals_scikit_learn(seed: int):
    generator = np.random.default_rng(seed)
    similarity, associated = generator.random(10), np.zeros(10, dtype=bool)
    associated[generator.choice(10, size=generator.integers(1, 6), replace=False)] = True
    chosen = np.isin(np.arange(10), np.argsort(similarity)[-associated.sum() :])  # as DataComp chooses
    assert jaccard(torch.tensor(similarity), torch.tensor(associated)) == pytest.approx(jaccard_score(associated, chosen))
