"""What a store is: named immutable-or-replaced objects under one URI, with conditional writes."""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Self

from drrho_clip.errors import StorageError
from drrho_clip.storage.files import atomic_file, copy_stream, reserved

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, eq=False)
class ObjectInfo:
    """One object: its key relative to the store, its size in bytes and its ETag (without quotes).

    A folder knows an ETag only after reading the file, so that there it is found when it is first asked for; ObjectChanged
    is raised if the file was replaced since.
    """

    key: str
    size: int
    etag_source: str | Callable[[], str] = field(repr=False)

    @cached_property
    def etag(self) -> str:
        """Identity of these bytes: what `etag=` and `if_match=` take."""
        return self.etag_source if isinstance(self.etag_source, str) else self.etag_source()


class Store(ABC):
    """Objects under one URI. Can be pickled and survives a fork; every method may be called from several threads."""

    uri: str

    def uri_of(self, key: str) -> str:
        """Return the URI of `key`."""
        return f"{self.uri.rstrip('/')}/{check_key(key)}"

    @abstractmethod
    def at(self, prefix: str) -> Self:
        """Return the store of everything below `prefix`."""

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """Return what is there, or None. An unreachable store is a StorageError, never None."""

    @abstractmethod
    def open(self, key: str, *, etag: str | None = None) -> BinaryIO:
        """Open for reading from start to end; a broken connection is resumed on the same version of the object.

        ObjectMissing, ObjectChanged (the object is not, or no longer, the version `etag`), StorageError.
        """

    @abstractmethod
    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        """Return exactly `length` bytes from `start`; StorageError if the object ends before, else as `open`."""

    @abstractmethod
    def write(self, key: str, data: Bytes, *, if_absent: bool = False, if_match: str | None = None) -> ObjectInfo:
        """Put an object whole or not at all.

        ObjectChanged when there is one already (`if_absent`) or when it is not the version `if_match`. Of several
        writers with the same condition exactly one succeeds.
        """

    @abstractmethod
    def upload(self, key: str, path: str | os.PathLike[str], *, if_absent: bool = False) -> ObjectInfo:
        """Put a local file whole or not at all, in parts where it is large; ObjectChanged if there is one already (`if_absent`).

        Of several at once exactly one succeeds where the server completes a conditional upload in one step, as AWS does.
        SeaweedFS looks first and completes then: two that overlap may both succeed, and the object is the later one's. What
        must have one winner (a manifest, a lease) is therefore written with `write`.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix` (a plain string prefix), sorted by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""

    def read(self, key: str, *, etag: str | None = None) -> bytes:
        """Return the whole object; errors as `open`."""
        with self.open(key, etag=etag) as stream:
            return stream.read()

    def download(self, key: str, path: str | os.PathLike[str], *, etag: str | None = None) -> None:
        """Copy an object to a local file, which appears whole or not at all."""
        with self.open(key, etag=etag) as source, atomic_file(Path(path)) as target:
            copy_stream(source, target)

    def probe(self) -> None:
        """Write, read back, list and delete a small object; StorageError says which of them fails."""
        key = f"probe-{secrets.token_hex(8)}"
        data = secrets.token_bytes(1000)
        self.write(key, data, if_absent=True)
        try:
            if self.read(key) != data:
                raise StorageError(
                    "The store gave back other bytes than were written",
                    where=self.uri_of(key),
                    fix="Check its version, and any proxy between here and there.",
                )
            if [info.size for info in self.list(key)] != [len(data)]:
                raise StorageError("The store does not list what was just written", where=self.uri_of(key))
        finally:
            self.delete(key)


def check_key(key: str) -> str:
    """Return `key` if it names an object below the store; StorageError if it is empty, absolute or climbs out."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key or reserved(parts[-1]):
        raise StorageError(
            f"{key!r} cannot be the key of an object",
            fix="Keys are relative: 'folder/name', without '..' and without an empty part.",
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it is the start of a possible key, or empty."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix
