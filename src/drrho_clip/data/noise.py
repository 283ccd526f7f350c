"""Caption noise: a seeded share of the training samples exchange their captions, so that the effect of dirty data can be seen.

The share is selected by key, so that the clean part of a dataset can be made from the same source; captions are exchanged among
the selected samples of one shard.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from drrho_clip.data.sources.order import key_hash


def share_of(key: str, seed: int, purpose: str) -> float:
    """Return a number in [0, 1) drawn by the key alone: the same however the data grows, and another for every purpose."""
    return key_hash(f"{purpose}:{key}", seed) / 2**64


def draw_split(key: str, seed: int, heldout: float, validation: float) -> str:
    """Return the split of a sample; the fractions are those of the samples that go to heldout and validation."""
    share = share_of(key, seed, "split")
    if share < heldout:
        return "heldout"
    return "validation" if share < heldout + validation else "train"


def is_exchanged(key: str, split: str, seed: int, share: float) -> bool:
    """Whether a sample is one of those whose caption is exchanged (or which the clean part leaves out)."""
    return split == "train" and share_of(key, seed, "caption_noise") < share


def exchange(captions: Sequence[str], seed: int) -> list[str]:
    """Return the captions dealt out anew, each to another sample and none to one that had the same text.

    Equal captions are put side by side, in a seeded order of the texts, and the whole is turned by half its length. Only where
    more than half of the captions are equal do some samples keep theirs.
    """
    counts = Counter(captions)
    order = sorted(range(len(captions)), key=lambda i: (-counts[captions[i]], _text_hash(captions[i], seed), i))
    half = len(order) // 2
    dealt = list(captions)
    for place, taker in enumerate(order):
        dealt[taker] = captions[order[(place + half) % len(order)]]
    return dealt


def _text_hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=16).digest()
