"""Local files that appear whole or not at all, and the errors of a disk in the words of the project."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from drrho_clip.errors import ObjectMissing, StorageError

TEMPORARY = ".drrho-tmp"
LOCK = ".drrho-lock"
CHUNK = 1 << 20

_FIXES = {
    errno.ENOSPC: "Free some space or choose another disk; nothing was left half-written.",
    errno.EDQUOT: "Free some space of your quota; nothing was left half-written.",
    errno.EFBIG: "The file system or a limit of this process does not allow files of this size.",
    errno.EACCES: "Give this user the right to read and write there, or choose another folder.",
    errno.EPERM: "Give this user the right to read and write there, or choose another folder.",
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.ENOTDIR: "A file stands where a folder is needed.",
    errno.EISDIR: "A folder stands where a file is needed.",
}


def reserved(name: str) -> bool:
    """Whether a file name is one of our temporary or lock files, which are never objects."""
    return name.endswith((TEMPORARY, LOCK))


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn OSError into StorageError (ObjectMissing where there is no such file)."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing("There is no such file", where=str(path)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"The disk refused: {reason}", where=str(path), fix=_FIXES.get(error.errno or 0, "")) from error


@contextmanager
def atomic_file(path: Path, publish: Callable[[str, str], None] = os.replace) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` and, if all goes well, `publish(temporary, path)`; otherwise nothing is left."""
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{TEMPORARY}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            publish(str(temporary), str(path))
        finally:
            temporary.unlink(missing_ok=True)


def copy_stream(source: BinaryIO, target: BinaryIO) -> int:
    """Copy to the end; return the number of bytes."""
    total = 0
    while chunk := source.read(CHUNK):
        target.write(chunk)
        total += len(chunk)
    return total
