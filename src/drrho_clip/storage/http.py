"""Files of a web server, read by ranges as if it were a store; nothing can be written or listed there."""

from __future__ import annotations

import http.client
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

from drrho_clip.errors import ObjectMissing, StorageError
from drrho_clip.storage.base import Bytes, ObjectInfo, check_key
from drrho_clip.storage.ranged import ATTEMPTS, FIRST_PAUSE, RangedReader, RangedStore

_TIMEOUT = 30.0  # seconds without a byte
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_GONE = (404, 410)


class HttpStore(RangedStore):
    """What lies below an address of http(s); the server must answer to Range (RFC 9110, section 14).

    A file's ETag is the server's or, where it gives none, its Last-Modified, or "": then its size alone tells versions apart.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def at(self, prefix: str) -> Self:
        """Return the store of everything below `prefix`."""
        return type(self)(self.uri_of(prefix.removesuffix("/")))

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is there, or None, by asking for the first byte: so a server without ranges is found at once."""
        try:
            with self._ranged(key, stop=1) as stream:
                return ObjectInfo(key, *stream.version)
        except ObjectMissing:
            return None

    def write(self, key: str, data: Bytes, *, if_absent: bool = False, if_match: str | None = None) -> ObjectInfo:
        """Refuse."""
        self._refuse(key)

    def upload(self, key: str, path: Any, *, if_absent: bool = False) -> ObjectInfo:
        """Refuse."""
        self._refuse(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Refuse."""
        self._refuse(prefix)

    def delete(self, key: str) -> None:
        """Refuse."""
        self._refuse(key)

    def _ranged(self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> RangedReader:
        url = f"{self.uri}/{check_key(key)}"

        def get(first: int, last: int | None, _: str | None) -> dict[str, Any]:
            return _get(url, first, last)

        return RangedReader(get, _errors, url, start=start, stop=stop, etag=etag)

    def _refuse(self, key: str) -> NoReturn:
        raise StorageError(
            "A web server can only be read, file by file", where=f"{self.uri}/{key}", fix="Name a folder or s3://bucket/prefix."
        )


def _get(url: str, first: int, last: int | None) -> dict[str, Any]:
    """Ask for the bytes first..last, again after a pause where the answer says that it is for now; as GetObject of S3 answers."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={first}-{'' if last is None else last}"})
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(random.SystemRandom().uniform(0, FIRST_PAUSE * 2**attempt))
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in _PASSING or attempt == ATTEMPTS - 1:
                    raise _refusal(error, url) from None
        except (http.client.HTTPException, OSError):
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return _answer(response, url)
    raise AssertionError("the last attempt returns or raises")


def _answer(response: Any, url: str) -> dict[str, Any]:
    extent = response.headers.get("Content-Range", "")
    if response.status != 206 or not extent or extent.endswith("/*"):
        response.close()
        raise StorageError(
            f"The server does not send parts of a file: it answers {response.status} to Range", where=url, fix="Copy the file."
        )
    etag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return {"Body": response, "ETag": etag, "ContentRange": extent}


def _refusal(error: urllib.error.HTTPError, url: str) -> StorageError:
    if error.code in _GONE:
        return ObjectMissing("There is no such file", where=url)
    return StorageError(f"The server answers {error.code} {error.reason}", where=url, fix="Check the address.")


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Raise what goes wrong with a connection as StorageError."""
    try:
        yield
    except (http.client.HTTPException, OSError) as error:
        raise StorageError(
            f"The server does not answer: {error or type(error).__name__}", where=where, fix="Check the address; try again later."
        ) from error
