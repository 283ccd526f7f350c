"""Reading an object that may take several connections: each goes on where the last one broke, on the same version."""

from __future__ import annotations

import io
import random
import re
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from typing import Any, BinaryIO, TypeVar, cast

import botocore.exceptions as aws
from urllib3.exceptions import HTTPError

from drrho_clip.errors import ObjectChanged, StorageError
from drrho_clip.storage.base import Store

ATTEMPTS = 6
FIRST_PAUSE = 0.2  # seconds; doubled after every attempt that gave nothing
LONGEST_PAUSE = 10.0
AT_ONCE_BYTES = 64 << 20  # read in one piece, which urllib3 does in a third of the processor's time
PIECE_BYTES = 1 << 20
_BUFFER = 1 << 20

_BROKEN = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, HTTPError, HTTPException, OSError)

Read = TypeVar("Read", int, bytes)
# (first byte, last byte or None for the end, ETag or None) -> the response of GetObject
Get = Callable[[int, int | None, str | None], Any]
# where -> a context that raises errors of the client as ours
Errors = Callable[[str], AbstractContextManager[None]]


class RangedReader(io.RawIOBase):
    """The bytes from `start` to `stop` (exclusive; None = the end) of one version of an object, in order.

    The first response fixes ETag and length; every later one must agree with both. ObjectChanged if the object was
    replaced, StorageError after `ATTEMPTS` connections in a row that gave nothing.
    """

    def __init__(
        self, get: Get, errors: Errors, where: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> None:
        self._get, self._errors, self._where, self._etag = get, errors, where, etag
        self._position, self._stop = start, stop
        self._body: Any = None
        self._total: int | None = None
        # A generator of its own: the pauses must not disturb a seeded program.
        self._random = random.SystemRandom()
        with errors(where):
            self._connect()

    @property
    def remaining(self) -> int:
        """Bytes still to come."""
        assert self._stop is not None
        return self._stop - self._position

    @property
    def version(self) -> tuple[int, str]:
        """Size of the whole object in bytes, and its ETag."""
        assert self._total is not None
        assert self._etag is not None
        return self._total, self._etag

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least one byte, unless the end is reached."""
        view = memoryview(buffer).cast("B")[: self.remaining]
        if not view:
            return 0
        return self._retried(lambda: self._try_read(view))

    def _retried(self, attempt: Callable[[], Read]) -> Read:
        """Read something, on a new connection where the last one gave nothing."""
        for failures in range(ATTEMPTS):
            if failures:
                time.sleep(self._random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures)))
            with self._errors(self._where):
                found = attempt()
            if found:
                self._position += found if isinstance(found, int) else len(found)
                return found
            self._drop()
        raise StorageError(
            f"The connection broke {ATTEMPTS} times in a row at byte {self._position:,}",
            where=self._where,
            fix="Check the network and the server.",
        )

    def readall(self) -> bytes:
        """Read to the end: what is not long at once; else, and where that breaks off, in pieces of which none is lost."""
        if 0 < self.remaining <= AT_ONCE_BYTES and (whole := self._try_whole()):
            return whole
        pieces = []
        while self.remaining:
            pieces.append(self._retried(self._try_piece))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Give the connection back."""
        self._drop()
        super().close()

    def _try_read(self, view: memoryview) -> int:
        """Read something, or return 0 where the connection is broken."""
        return self._tried(lambda body: int(body.readinto(view))) or 0

    def _try_piece(self) -> bytes:
        """Read a piece, or return nothing where the connection is broken."""
        return self._tried(lambda body: bytes(body.read(min(PIECE_BYTES, self.remaining)))) or b""

    def _tried(self, read: Callable[[Any], Read]) -> Read | None:
        try:
            if self._body is None:
                self._connect()
            return read(self._body)
        except _BROKEN:
            return None
        except aws.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                raise
            return None

    def _try_whole(self) -> bytes:
        """Return all that is left, or nothing where the connection is broken: what had come by then is read again."""
        with self._errors(self._where):
            data = self._tried(lambda body: bytes(body.read())) or b""
        if len(data) != self.remaining:
            self._drop()
            return b""
        self._position += len(data)
        return data

    def _connect(self) -> None:
        last = None if self._stop is None else self._stop - 1
        response = self._get(self._position, last, self._etag)
        self._body = response["Body"]
        etag, first, total = response["ETag"].strip('"'), *_extent(response)
        if self._etag not in (None, etag) or self._total not in (None, total):
            raise ObjectChanged(f"The object was replaced: ETag {etag} instead of {self._etag}", where=self._where)
        stop = total if self._stop is None else self._stop
        if first != self._position or stop > total:
            raise StorageError(
                f"Asked for the bytes from {self._position:,} to {stop:,} and got them from {first:,}; the object has {total:,}",
                where=self._where,
            )
        self._etag, self._total, self._stop = etag, total, stop

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


class RangedStore(Store):
    """A store whose objects are read by ranges."""

    def open(self, key: str, *, etag: str | None = None) -> BinaryIO:
        """Open for reading from start to end; see `RangedReader`."""
        return cast(BinaryIO, io.BufferedReader(self._ranged(key, etag=etag), _BUFFER))

    def read(self, key: str, *, etag: str | None = None) -> bytes:
        """Return the whole object."""
        with self._ranged(key, etag=etag) as stream:
            return stream.readall()

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        """Return exactly `length` bytes from `start`."""
        if length == 0:
            return b""
        with self._ranged(key, start=start, stop=start + length, etag=etag) as stream:
            return stream.readall()

    @abstractmethod
    def _ranged(self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> RangedReader:
        """Open the bytes from `start` to `stop` of an object."""


def _extent(response: Any) -> tuple[int, int]:
    """Return (first byte, length of the whole object) of a response."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.get("ContentRange", ""))
    return (int(match[1]), int(match[2])) if match else (0, int(response["ContentLength"]))
