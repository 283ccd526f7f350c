"""Download of one file over http(s) that goes on where a broken connection ended, and is never shorter than announced."""

from __future__ import annotations

import base64
import http.client
import random
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from drrho_clip.errors import DataError, StorageError
from drrho_clip.storage.files import atomic_file, disk_errors

_ATTEMPTS = 6  # in a row that bring nothing
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass
class _Progress:
    """What is known of the file: bytes written, its whole length, and the version they belong to."""

    have: int = 0
    total: int | None = None
    version: str | None = None


def public_url(url: str) -> str:
    """Return the URL without what gives access: user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def download(url: str, path: Path) -> None:
    """Fetch `url` (a user and password in it are sent as Basic authentication) to `path`, which appears whole or not at all.

    Raises DataError where the server says that it is not there, StorageError where it cannot be had.
    """
    progress = _Progress()
    failures, shown = 0, public_url(url)
    with atomic_file(path) as target:
        while True:
            before = progress.have
            try:
                _fetch(url, target, progress)
                return
            except urllib.error.HTTPError as error:
                if error.code not in _PASSING:
                    raise DataError(f"The server answers {error.code} {error.reason}", where=shown, fix="Check `path`.") from None
                reason = f"{error.code} {error.reason}"
            except (http.client.HTTPException, OSError) as error:
                reason = str(error) or type(error).__name__
            failures = 0 if progress.have > before else failures + 1
            if failures == _ATTEMPTS:
                raise StorageError(f"The download fails at byte {progress.have}: {reason}", where=shown, fix="Try again later.")
            time.sleep(random.uniform(0.5, 1.0) * 0.1 * 2**failures)  # back off, so that a busy server recovers


def _fetch(url: str, target: BinaryIO, progress: _Progress) -> None:
    """Write the rest of the file; raise ConnectionError where the connection ends before it."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(unquote(user).encode()).decode())
    if progress.have:
        request.add_header("Range", f"bytes={progress.have}-")
        if progress.version:
            request.add_header("If-Range", progress.version)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        start, total = _extent(response)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if start not in (0, progress.have) or (start and progress.total is not None and total != progress.total):
            raise StorageError("The server sent another part than was asked for, or the file has changed", where=public_url(url))
        target.seek(start)
        target.truncate()
        progress.have, progress.total, progress.version = start, total, version
        while chunk := response.read1(_CHUNK):
            with disk_errors(Path(target.name)):
                target.write(chunk)
            progress.have += len(chunk)
    if total is not None and progress.have != total:
        raise ConnectionError(f"the connection ended at byte {progress.have} of {total}")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return (first byte, whole length) of what a response holds."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, int(length) if length else None
    given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not given:
        raise http.client.HTTPException("a partial answer does not say which part it is")
    return int(given[1]), None if given[2] == "*" else int(given[2])
