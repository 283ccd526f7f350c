"""The order in which listed samples are given: by a seeded hash of the key, so that neighbours are mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

from drrho_clip.data.sources.base import Piece, RawSample, Rejected


def key_hash(key: str, seed: int) -> int:
    """64 bits of a hash of key and seed, the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "big")


def seeded_order(keys: Iterable[str], seed: int, known: Collection[str] = ()) -> list[str]:
    """Return the keys that are not in `known`, in hash order."""
    return sorted((key for key in keys if key not in known), key=lambda key: (key_hash(key, seed), key))


def cut(keys: Sequence[str], size: int, read: Callable[[Sequence[str]], Iterator[RawSample | Rejected]]) -> Iterator[Piece]:
    """Cut `keys` into pieces of `size` samples, which `read` gives."""
    for start in range(0, len(keys), size):
        piece = keys[start : start + size]
        yield Piece(len(piece), partial(read, piece))


def joined(pieces: Iterable[Piece]) -> Iterator[RawSample | Rejected]:
    """Yield what is in the pieces, one after the other."""
    for piece in pieces:
        yield from piece.read()


def fingerprint_of(parts: Iterable[object]) -> str:
    """Hash of the texts of `parts`, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
