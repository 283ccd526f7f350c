"""Image-text retrieval: recall at k both ways, with several captions an image and several images a caption."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drrho_clip.evaluation.config import RECALL_KS
from drrho_clip.evaluation.results import Retrieval, Score

MAX_SIMILARITIES = 2**25  # similarities in memory at once: 128 MiB of float32

DEFINITION = (
    "image to text: share of the pictures with any caption of their own among the k most similar; text to image: share of the "
    "captions with any picture of their own among the k most similar. Equal pictures (by the hash of their bytes) count as one, "
    "and so do equal captions. Candidates as similar as the best of one's own are ranked before it."
)


@dataclass(frozen=True)
class Pairs:
    """Image-text pairs: features [n, 2, dim] (image, text; unit norm) and what makes images or captions of them the same.

    `query` says which pairs belong to the evaluated split, `owned` which of the others count as belonging together.
    """

    features: Tensor
    images: Sequence[Hashable]
    captions: Sequence[Hashable]
    query: Tensor
    owned: Tensor


@dataclass(frozen=True)
class _Side:
    """The distinct things of one side: where each first occurs, the number of each pair's, and those that are queries."""

    features: Tensor  # [m, dim]
    number: Tensor  # [n]
    queries: Tensor  # [q] sorted numbers


def evaluate_retrieval(pairs: Pairs, ks: Sequence[int] = RECALL_KS) -> Retrieval:
    """Recall at `ks` both ways; a k that is not smaller than the number of candidates is left out."""
    images = _distinct(pairs, 0, pairs.images)
    texts = _distinct(pairs, 1, pairs.captions)
    related = pairs.query | pairs.owned
    own = torch.unique(torch.stack([images.number, texts.number], dim=1)[related], dim=0)
    return Retrieval(
        definition=DEFINITION,
        images=len(images.queries),
        captions=len(texts.queries),
        candidate_images=len(images.features),
        candidate_captions=len(texts.features),
        image_to_text=_recalls(images, texts, own, ks),
        text_to_image=_recalls(texts, images, own.flip(1), ks),
    )


def own_ranks(queries: Tensor, candidates: Tensor, own: Tensor) -> Tensor:
    """Rank (from 1) of the best candidate of its own for each query: int64 [q].

    `queries` [q, dim], `candidates` [c, dim], `own` [p, 2] (query, candidate), at least one for each query. Ties, and
    similarities that are no numbers, count against the query: a model that gives the same features to everything is last.
    """
    ranks = []
    rows = max(1, MAX_SIMILARITIES // len(candidates))
    for start in range(0, len(queries), rows):
        similarity = queries[start : start + rows] @ candidates.T
        here = own[(own[:, 0] >= start) & (own[:, 0] < start + rows)]
        row, column = here[:, 0] - start, here[:, 1]
        best = similarity.new_full((len(similarity),), -torch.inf)
        best.scatter_reduce_(0, row, similarity[row, column], "amax")
        similarity[row, column] = -torch.inf
        ranks.append(1 + (~(similarity < best[:, None])).sum(dim=1))
    return torch.cat(ranks)


def _distinct(pairs: Pairs, side: int, names: Sequence[Hashable]) -> _Side:
    numbers: dict[Hashable, int] = {}
    number = torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])
    first = torch.full((len(numbers),), len(names)).scatter_reduce(0, number, torch.arange(len(names)), "amin")
    return _Side(pairs.features[first, side], number, torch.unique(number[pairs.query]))


def _recalls(queries: _Side, candidates: _Side, own: Tensor, ks: Sequence[int]) -> dict[int, Score]:
    """Recall of one direction; `own` [p, 2] (number of the query's thing, number of the candidate)."""
    position = torch.full((len(queries.features),), -1)
    position[queries.queries] = torch.arange(len(queries.queries))
    asked = position[own[:, 0]] >= 0
    pairs = torch.stack([position[own[asked, 0]], own[asked, 1]], dim=1)
    ranks = own_ranks(queries.features[queries.queries], candidates.features, pairs)
    return {k: Score.of(float((ranks <= k).sum()), len(ranks)) for k in ks if k < len(candidates.features)}
