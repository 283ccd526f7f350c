"""The order in which listed samples are given: by a seeded hash of the key, so that neighbours are mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable


def key_hash(key: str, seed: int) -> int:
    """64 bits of a hash of key and seed, the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "big")


def seeded_order(keys: Iterable[str], seed: int, known: Collection[str] = ()) -> list[str]:
    """Return the keys that are not in `known`, in hash order."""
    return sorted((key for key in keys if key not in known), key=lambda key: (key_hash(key, seed), key))
