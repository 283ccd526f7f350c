"""A store whose pinned reads are kept on a local disk, in blocks that the processes of a node share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from drrho_clip.storage.base import Bytes, ObjectInfo, Store
from drrho_clip.storage.blocks import BLOCK_BYTES, Blocks


class CachedStore(Store):
    """Another store; `read_range` of a version (`etag`) fetches whole blocks of it, once for all that share the folder.

    Everything else goes to the store itself. What is on the disk is never taken for another object or version, and is checked
    when it is read. A disk that fails makes reading slower, never wrong.
    """

    def __init__(self, store: Store, blocks: Blocks) -> None:
        self.store, self.blocks = store, blocks
        self.uri = store.uri
        self._sizes: dict[tuple[str, str], int] = {}

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        """Return exactly `length` bytes from `start`; without an ETag past the cache."""
        if etag is None or length == 0:
            return self.store.read_range(key, start, length, etag=etag)
        stop, size = start + length, self._size(key, etag)
        if stop > size:
            return self.store.read_range(key, start, length, etag=etag)  # for the error
        parts = []
        for block in range(start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1):
            first = block * BLOCK_BYTES
            end = min(first + BLOCK_BYTES, size)

            def fetch(first: int = first, end: int = end) -> bytes:
                return self.store.read_range(key, first, end - first, etag=etag)

            name = f"{self.store.uri_of(key)} {etag} {block}"
            parts.append(self.blocks.read(name, max(start, first) - first, min(stop, end) - first, fetch))
        return b"".join(parts)

    def _size(self, key: str, etag: str) -> int:
        """Size of a version; ObjectMissing or ObjectChanged where it is not there, once it has been asked for."""
        size = self._sizes.get((key, etag))
        if size is None:
            info = self.store.head(key)
            if info is None or info.etag != etag:
                return 0
            size = self._sizes[key, etag] = info.size
        return size

    def at(self, prefix: str) -> CachedStore:
        """Return the store of everything below `prefix`, with the same cache."""
        return CachedStore(self.store.at(prefix), self.blocks)

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is there, or None."""
        return self.store.head(key)

    def open(self, key: str, *, etag: str | None = None) -> BinaryIO:
        """Open for reading from start to end, past the cache."""
        return self.store.open(key, etag=etag)

    def read(self, key: str, *, etag: str | None = None) -> bytes:
        """Return the whole object, past the cache."""
        return self.store.read(key, etag=etag)

    def write(self, key: str, data: Bytes, *, if_absent: bool = False, if_match: str | None = None) -> ObjectInfo:
        """Put an object."""
        return self.store.write(key, data, if_absent=if_absent, if_match=if_match)

    def upload(self, key: str, path: str | os.PathLike[str], *, if_absent: bool = False) -> ObjectInfo:
        """Put a local file."""
        return self.store.upload(key, path, if_absent=if_absent)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`."""
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        """Delete an object; what is cached of it is never read again."""
        self.store.delete(key)
