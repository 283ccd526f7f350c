"""What tasks are measured by: each a pure function of ranks, predictions or similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SIMILARITIES = 2**25  # in memory at once: 128 MiB of float32


def rank_classes(images: Tensor, classifier: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rank (from 1) of each image's own class, and the class that is predicted: both int64 [n].

    `images` [n, dim], `classifier` [classes, dim], `labels` int64 [n]. Of classes as similar the one of the smaller number comes
    first, as argmax has it: a model that gives the same features to everything gets what chance gives.
    """
    numbers = torch.arange(len(classifier))
    ranks, predictions = [], []
    rows = max(1, MAX_SIMILARITIES // len(classifier))
    for start in range(0, len(images), rows):
        similarity = images[start : start + rows] @ classifier.T
        own = labels[start : start + rows, None]
        of_own = similarity.gather(1, own)
        ahead = (similarity > of_own) | ((similarity == of_own) & (numbers < own))
        ranks.append(1 + ahead.sum(dim=1))
        predictions.append(similarity.argmax(dim=1))
    return torch.cat(ranks), torch.cat(predictions)


def top_k(ranks: Tensor, k: int) -> float:
    """Share of the images whose own class is among the k most similar."""
    return int((ranks <= k).sum()) / len(ranks)


def mean_per_class_recall(predictions: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have images of the share of them that is predicted right."""
    own = [predictions[labels == number] == number for number in set(labels.tolist())]
    recalls = [int(hits.sum()) / len(hits) for hits in own]
    return sum(recalls) / len(recalls)


def macro_f1(predictions: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have images of F1 = 2 TP / (2 TP + FP + FN), as WILDS takes it of iWildCam."""
    scores = []
    for number in set(labels.tolist()):
        predicted, true = predictions == number, labels == number
        scores.append(2 * int((predicted & true).sum()) / int(predicted.sum() + true.sum()))
    return sum(scores) / len(scores)


def group_shares(hits: Tensor, groups: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Number of images and share of hits of each group, sorted by name; `hits` bool [n]."""
    names = sorted(set(groups))
    place = {name: position for position, name in enumerate(names)}
    rows = torch.tensor([place[name] for name in groups])
    counts = torch.bincount(rows, minlength=len(names))
    right = torch.bincount(rows[hits], minlength=len(names))
    return {name: (int(counts[row]), int(right[row]) / int(counts[row])) for row, name in enumerate(names)}


def jaccard(similarity: Tensor, associated: Tensor) -> float:
    """Jaccard index of the pictures associated with a cue and as many that are most similar to it; `associated` bool [n].

    Of pictures as similar the first comes first.
    """
    count = int(associated.sum())
    chosen = torch.zeros_like(associated)
    chosen[similarity.argsort(descending=True, stable=True)[:count]] = True
    return int((chosen & associated).sum()) / int((chosen | associated).sum())
