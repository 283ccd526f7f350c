"""What a verification counts, and what it finds wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drrho_clip.errors import DrrhoError

if TYPE_CHECKING:
    from drrho_clip.storage import Store

BLOCK_BYTES = 2**20


@dataclass
class Verified:
    """How much was read, by kind (samples, checkpoints, bytes, ...), and one sentence for each fault, the key in front."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Verified) -> None:
        """Take in what was found elsewhere."""
        self.counts += other.counts
        self.problems += other.problems
        self.notes += other.notes

    @contextmanager
    def looking_at(self, key: str) -> Iterator[None]:
        """Turn an error of ours, or of a file that is not what it should be, into a problem of `key`."""
        try:
            yield
        except DrrhoError as error:
            self.problems.append(f"{key}: {error.what}")
        except (ValueError, KeyError, TypeError) as error:
            self.problems.append(f"{key}: it cannot be understood ({type(error).__name__}: {str(error).splitlines()[0]})")


def sha256_of(store: Store, key: str, *, etag: str | None = None) -> tuple[str, int]:
    """Read an object to its end, a block at a time; its sha256 and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with store.open(key, etag=etag) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size
