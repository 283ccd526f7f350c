"""Lists of the samples to keep, by DataComp's uids: 128 bits, written as 32 hex digits in a sample's .json.

A list is a .npy of pairs of unsigned 64-bit integers (high and low half of a uid: dtype "u8,u8", what DataComp's resharder takes
and DFN publishes), a .parquet with a column `uid`, or text with one uid a line. A sorted .npy is not read into the memory.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drrho_clip.data.manifest import UidList
from drrho_clip.data.sources.captions import BadRow
from drrho_clip.data.sources.locate import Tar, find_tars
from drrho_clip.errors import DataError

if TYPE_CHECKING:
    from drrho_clip.storage import Store

PAIR = np.dtype("<u8,<u8")
FIELD = "uid"

_UID = re.compile(r"[0-9a-fA-F]{32}")
_CHUNK = 1 << 20  # pairs compared at once
_FORMATS = "a .npy of dtype 'u8,u8', a .parquet with a column 'uid', or a .txt with one uid of 32 hex digits a line"


class Uids:
    """The uids of one or several files, and which of them were met."""

    def __init__(self, path: str, store: Store | None = None) -> None:
        """Read the files that `path` names (as `find_tars` finds them); DataError where one is no such list."""
        files = _find(path, store)
        lists, digest = [], hashlib.sha256()
        with tempfile.TemporaryDirectory(prefix="drrho-uids-") as folder:  # a file that is mapped stays until it is let go of
            for number, file in enumerate(files):
                local = file.path or Path(folder) / f"{number}"
                if file.fetch:
                    file.fetch(local)
                with local.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
                lists.append(_read(local, file.name))
        self.sha256 = digest.hexdigest()
        self._pairs = lists[0] if len(lists) == 1 and _is_ascending(lists[0]) else _sorted(lists)
        self._met = np.zeros(len(self._pairs), dtype=np.bool_)
        if not len(self._pairs):
            raise DataError("The list of uids is empty", where=files[0].name, fix="Leave `uids` out to take all samples.")

    @property
    def met(self) -> int:
        """How many were met."""
        return int(self._met.sum())

    def keeps(self, fields: Mapping[str, Any], name: str) -> bool:
        """Whether a sample with these fields (of `name`) is on the list; raise BadRow where they hold no uid."""
        return self._find(fields, name) is not None

    def meet(self, fields: Mapping[str, Any], name: str) -> int | None:
        """Return the place in the list of a sample's uid, which was met now, or None; raise BadRow where it has none."""
        index = self._find(fields, name)
        if index is not None:
            self._met[index] = True
        return index

    def were_met(self, places: Sequence[int]) -> None:
        """Note what another process has met."""
        self._met[places] = True

    def counts(self, before: UidList | None) -> UidList:
        """Return how many there are and were met, in this ingest and `before`."""
        return UidList(sha256=self.sha256, listed=len(self._met), found=self.met + (before.found if before else 0))

    def _find(self, fields: Mapping[str, Any], name: str) -> int | None:
        uid = fields.get(FIELD)
        if not isinstance(uid, str) or not _UID.fullmatch(uid):
            raise BadRow("uid", f"{name}: {FIELD} is {str(uid)[:40]!r}, not 32 hex digits" if uid else f"{name} has no {FIELD}")
        pair = int(uid[:16], 16), int(uid[16:], 16)
        index = bisect.bisect_left(self._pairs, pair, key=tuple)
        return index if index < len(self._pairs) and tuple(self._pairs[index]) == pair else None


def _find(path: str, store: Store | None) -> list[Tar]:
    try:
        return find_tars(path, store)
    except DataError as error:
        raise DataError(f"No list of uids: {error.what}", where=error.where or path, fix="Check `uids`.") from None


def _read(path: Path, name: str) -> NDArray[Any]:
    """Return the pairs of one file as they stand in it."""
    with path.open("rb") as stream:
        head = stream.read(6)
    read: Callable[[Path, str], NDArray[Any]] = _text
    if head == b"\x93NUMPY":
        read = _numpy
    elif head.startswith(b"PAR1"):
        read = _parquet
    return read(path, name)


def _numpy(path: Path, name: str) -> NDArray[Any]:
    try:
        pairs: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise _no_list(name, str(error)) from None
    kinds = [pairs.dtype[i] for i in range(len(pairs.dtype.names or ()))]
    if pairs.ndim != 1 or [(kind.kind, kind.itemsize) for kind in kinds] != [("u", 8)] * 2:
        raise _no_list(name, f"it holds {pairs.dtype} of shape {pairs.shape}")
    return pairs


def _parquet(path: Path, name: str) -> NDArray[Any]:
    try:
        with pq.ParquetFile(path) as file:
            if FIELD not in file.schema_arrow.names:
                raise _no_list(name, f"its columns are {', '.join(file.schema_arrow.names)}")
            batches = file.iter_batches(_CHUNK, columns=[FIELD])
            return np.concatenate(
                [_parse(batch.column(0).to_pylist(), name, "row") for batch in batches] or [_parse([], name, "")]
            )
    except pa.ArrowException as error:
        raise _no_list(name, str(error)) from None


def _text(path: Path, name: str) -> NDArray[Any]:
    with path.open(encoding="ascii", errors="backslashreplace") as lines:
        return _parse([line.strip() for line in lines if line.strip()], name, "uid")


def _parse(uids: list[Any], name: str, what: str) -> NDArray[Any]:
    for number, uid in enumerate(uids, start=1):
        if not isinstance(uid, str) or not _UID.fullmatch(uid):
            raise _no_list(name, f"{what} {number} is {str(uid)[:40]!r}")
    return np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8,>u8").astype(PAIR)


def _is_ascending(pairs: NDArray[Any]) -> bool:
    """Whether each pair is larger than the one before, looked at piece by piece."""
    for start in range(0, len(pairs) - 1, _CHUNK):
        high, low = (pairs[name][start : start + _CHUNK + 1] for name in pairs.dtype.names or ())
        if not ((high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))).all():
            return False
    return True


def _sorted(lists: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Return the pairs in order, each once."""
    pairs = np.concatenate([found.astype(PAIR) for found in lists])
    pairs = pairs[np.lexsort((pairs["f1"], pairs["f0"]))]
    again = (pairs["f0"][1:] == pairs["f0"][:-1]) & (pairs["f1"][1:] == pairs["f1"][:-1])
    return pairs[np.concatenate([[True], ~again])] if len(pairs) else pairs


def _no_list(name: str, why: str) -> DataError:
    return DataError(f"This is no list of uids: {why}", where=name, fix=f"`uids` takes {_FORMATS}.")
