"""A store in a local folder: atomic writes, the same conditions as an object store."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, Self

from drrho_clip.errors import ObjectChanged, ObjectMissing, StorageError
from drrho_clip.storage.base import Bytes, ObjectInfo, Store, check_key, check_prefix
from drrho_clip.storage.files import CHUNK, LOCK, atomic_file, copy_stream, disk_errors, reserved

# A file this young may be replaced without a visible change of its times, so that its hash is not kept.
_SETTLED_NANOSECONDS = 2_000_000_000


class LocalStore(Store):
    """Objects are the files below a folder, which is made by the first write."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()
        self.uri = str(self.root)

    def at(self, prefix: str) -> Self:
        """Return the store of everything below `prefix`."""
        return type(self)(self._path(prefix.removesuffix("/")))

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is there, or None."""
        path = self._path(key)
        try:
            with disk_errors(path):
                return _info(key, path, path.stat()) if path.is_file() else None
        except ObjectMissing:
            return None

    def open(self, key: str, *, etag: str | None = None) -> BinaryIO:
        """Open the file; it stays the version that was opened even when it is replaced meanwhile."""
        path = self._path(key)
        with disk_errors(path):
            if not path.is_file():
                raise ObjectMissing("There is no such file", where=str(path))
            stream = path.open("rb")
            try:
                if etag is not None:
                    _require(path, etag, _etag_of_open(path, stream))
            except BaseException:
                stream.close()
                raise
        return stream

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        """Return exactly `length` bytes from `start`."""
        path = self._path(key)
        with self.open(key, etag=etag) as stream, disk_errors(path):
            stream.seek(start)
            data = stream.read(length)
        if len(data) != length:
            raise StorageError(f"The file ends before byte {start + length:,}", where=str(path))
        return data

    def write(self, key: str, data: Bytes, *, if_absent: bool = False, if_match: str | None = None) -> ObjectInfo:
        """Write a temporary file beside the object and rename it."""
        if if_match is not None:
            with _locked(self._path(key)) as path:
                _require(path, if_match, _etag(path) if path.is_file() else "none")
                return self._put(key, io.BytesIO(data))
        return self._put(key, io.BytesIO(data), if_absent=if_absent)

    def upload(self, key: str, path: str | os.PathLike[str], *, if_absent: bool = False) -> ObjectInfo:
        """Copy a file into the store."""
        with disk_errors(Path(path)), Path(path).open("rb") as source:
            return self._put(key, source, if_absent=if_absent)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the files whose key starts with `prefix`, sorted by key."""
        folder = self.root / check_prefix(prefix).rpartition("/")[0]
        with disk_errors(folder):
            walk = os.walk(folder, onerror=_raise_unless_missing)
            keys = [Path(parent, name).relative_to(self.root).as_posix() for parent, _, names in walk for name in names]
        for key in sorted(keys, key=os.fsencode):
            if key.startswith(prefix) and not reserved(key) and (info := self.head(key)):
                yield info

    def delete(self, key: str) -> None:
        """Delete the file; folders stay."""
        path = self._path(key)
        with disk_errors(path):
            if path.is_file():
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _put(self, key: str, source: BinaryIO, *, if_absent: bool = False) -> ObjectInfo:
        path = self._path(key)
        # A hard link fails where the name is taken, a rename replaces: each is one atomic step of the file system.
        with atomic_file(path, partial(_link, path) if if_absent else os.replace) as target:
            copy_stream(source, target)
            target.flush()
            status = os.fstat(target.fileno())
        return _info(key, path, status)


def _info(key: str, path: Path, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, partial(_etag, path, _version(status)))


def _raise_unless_missing(error: OSError) -> None:
    """A folder that cannot be read must not shorten a listing; one that is gone holds nothing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _link(path: Path, temporary: str, target: str) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise ObjectChanged("There is an object already", where=str(path)) from error


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Hold the lock of one object; the lock file stays, because removing it would let two writers hold 'the' lock."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name[:40]}{LOCK}").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path


def _require(path: Path, wanted: str, found: str) -> None:
    if wanted != found:
        raise ObjectChanged(f"The file is not the version that was asked for: ETag {found} instead of {wanted}", where=str(path))


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _etag(path: Path, version: tuple[int, int, int] | None = None) -> str:
    """Return the md5 of the file; ObjectChanged if it is no longer the given version."""
    with disk_errors(path), path.open("rb") as stream:
        if version is not None and _version(os.fstat(stream.fileno())) != version:
            raise ObjectChanged("The file was replaced meanwhile", where=str(path))
        return _etag_of_open(path, stream)


def _etag_of_open(path: Path, stream: BinaryIO) -> str:
    status = os.fstat(stream.fileno())
    if time.time_ns() - status.st_mtime_ns < _SETTLED_NANOSECONDS:
        return _md5_of(stream)
    return _settled_etag(path, _version(status))


@lru_cache(maxsize=1 << 16)
def _settled_etag(path: Path, version: tuple[int, int, int]) -> str:
    with path.open("rb") as stream:
        if _version(os.fstat(stream.fileno())) != version:
            raise ObjectChanged("The file was replaced meanwhile", where=str(path))
        return _md5_of(stream)


def _md5_of(stream: BinaryIO) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    stream.seek(0)
    return digest.hexdigest()
