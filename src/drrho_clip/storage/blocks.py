"""Blocks of objects in a local folder: bounded, shared by processes, checked when they are read.

    <folder>/<two digits>/<sha256 of the name>   head, then the bytes of one block
    <folder>/locks/                              one file for each of 1,024 groups of names: who holds it may fetch
    <folder>/size                                the bytes that all blocks take, as text; whoever changes it holds its lock

The head of a block: eight bytes of magic, the length and the number of pages (8 bytes each, little endian), the crc32 of each
page of 64 KiB, and the crc32 of all that. So a part of a block is checked by reading its own pages alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drrho_clip.observe import get_logger

BLOCK_BYTES = 4 * 2**20
PAGE_BYTES = 64 * 2**10
LOCKS = 1024
KEPT_SHARE = 0.9  # what is left when the oldest go: they are looked for once for many new ones
TOUCH_SECONDS = 60.0  # a block's time of use is this exact
ABANDONED_SECONDS = 600.0  # a temporary file this old is nobody's any more

_MAGIC = b"drrhoB1\n"
_HEAD = struct.Struct("<8sQQ")
_CRC = struct.Struct("<I")


class Damaged(Exception):
    """A file of the cache is not what was written."""


class Blocks:
    """At most `limit` bytes of blocks below `folder`; those that were not used for longest go first.

    Threads and processes may share it, also while one is killed. Where the disk fails or is full, the process goes on without
    writing, and says so once. A folder of one's own: whoever can write to it can choose what is read.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._writes = True

    def read(self, name: str, start: int, stop: int, fetch: Callable[[], bytes]) -> bytes:
        """Return the bytes start .. stop - 1 of a block, which is fetched, whole, where it is not held."""
        path = self._path(name)
        found = self._held(path, start, stop)
        if found is not None or not self._writes:
            return fetch()[start:stop] if found is None else found
        with self._fetching(path):
            found = self._held(path, start, stop)  # another may have fetched it meanwhile
            if found is None:
                data = fetch()
                self._keep(path, data)
                found = data[start:stop]
        return found

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / digest[:2] / digest

    def _held(self, path: Path, start: int, stop: int) -> bytes | None:
        try:
            return read_block(path, start, stop)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._give_up(error)
        except Damaged as error:
            get_logger().warning("cache_block_damaged", path=str(path), reason=str(error))
            with suppress(OSError):
                path.unlink()
        return None

    @contextmanager
    def _fetching(self, path: Path) -> Iterator[None]:
        """Hold the lock of a block, so that one of many fetches it; without it where the disk refuses."""
        try:
            lock = self._open(self.folder / "locks" / str(int(path.name[:8], 16) % LOCKS))
        except OSError as error:
            self._give_up(error)
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _keep(self, path: Path, data: bytes) -> None:
        block = head_of(data)
        size = len(block) + len(data)
        if not self._writes or size > self.limit:
            return
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # the block's lock is held: no other thread has it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take(size)
            try:
                temporary.write_bytes(block + data)
                temporary.replace(path)
            except OSError:
                self._take(-size)
                raise
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _take(self, size: int) -> None:
        """Count bytes before they are written; where that is too much, delete the oldest blocks."""
        counter = self._open(self.folder / "size")
        try:
            fcntl.flock(counter, fcntl.LOCK_EX)
            text = os.pread(counter, 32, 0)
            total = (int(text) if text.strip().isdigit() else self._shrink(self.limit)) + size
            if total > self.limit:
                total = self._shrink(int(KEPT_SHARE * self.limit) - size) + size
            os.ftruncate(counter, 0)
            os.pwrite(counter, str(max(0, total)).encode(), 0)
        finally:
            os.close(counter)

    def _shrink(self, limit: int) -> int:
        """Delete what was not used for longest until `limit` bytes are left; return how many are."""
        files = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                abandoned = path.suffix == ".tmp" and time.time() - status.st_mtime > ABANDONED_SECONDS
                files.append((0.0 if abandoned else status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if used and (total <= limit or path.suffix == ".tmp"):
                continue
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _open(self, path: Path) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _give_up(self, error: OSError) -> None:
        if self._writes:
            self._writes = False
            get_logger().warning("cache_given_up", folder=str(self.folder), reason=str(error))


def head_of(data: bytes) -> bytes:
    """Return the head of a block's file."""
    view = memoryview(data)
    pages = [zlib.crc32(view[first : first + PAGE_BYTES]) for first in range(0, len(data), PAGE_BYTES)]
    head = _HEAD.pack(_MAGIC, len(data), len(pages)) + b"".join(map(_CRC.pack, pages))
    return head + _CRC.pack(zlib.crc32(head))


def read_block(path: Path, start: int, stop: int) -> bytes:
    """Return the bytes start .. stop - 1 of a block's file and mark it as used; OSError, Damaged."""
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if time.time() - status.st_mtime > TOUCH_SECONDS:
            os.utime(file.fileno())
        head = os.pread(file.fileno(), _HEAD.size + _CRC.size * (BLOCK_BYTES // PAGE_BYTES + 1), 0)
        magic, length, pages = _HEAD.unpack_from(head) if len(head) >= _HEAD.size else (b"", 0, 0)
        end = _HEAD.size + _CRC.size * pages
        if magic != _MAGIC or status.st_size != end + _CRC.size + length or head[end : end + _CRC.size] != _crc(head[:end]):
            raise Damaged(f"a file of {status.st_size} bytes with the head of another")
        first, last = start // PAGE_BYTES, (stop - 1) // PAGE_BYTES
        skipped = first * PAGE_BYTES
        data = os.pread(file.fileno(), min((last + 1) * PAGE_BYTES, length) - skipped, end + _CRC.size + skipped)
    view = memoryview(data)
    for page in range(first, last + 1):
        at = (page - first) * PAGE_BYTES
        if _crc(view[at : at + PAGE_BYTES]) != head[_HEAD.size + _CRC.size * page : _HEAD.size + _CRC.size * (page + 1)]:
            raise Damaged(f"page {page} has another checksum")
    return data[start - skipped : stop - skipped]


def _crc(data: bytes | memoryview) -> bytes:
    return _CRC.pack(zlib.crc32(data))
