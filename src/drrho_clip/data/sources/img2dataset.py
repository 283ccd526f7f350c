"""What img2dataset leaves beside each tar: NNNNN_stats.json, written last, and NNNNN.parquet with a row per URL.

Source of the layout: rom1504/img2dataset, "webdataset" as output_format. In the .parquet, `status` is "success",
"failed_to_download" or "failed_to_resize", and `error_message` says why.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from drrho_clip.data.sources.base import NOT_DOWNLOADED, Rejected
from drrho_clip.data.sources.captions import BadRow
from drrho_clip.data.sources.locate import Tar
from drrho_clip.data.sources.pairing import Pairing
from drrho_clip.data.sources.uids import FIELD, Uids
from drrho_clip.errors import DataError

_AT_ONCE = 16
_PROBED = 3  # tars from each end that tell whether img2dataset wrote them
_BATCH_ROWS = 8192


class Img2dataset:
    """The files beside the tars of a source, by the tars' numbers."""

    def __init__(self, tars: Sequence[Tar]) -> None:
        """Look whether img2dataset wrote the tars; DataError where it has not finished one."""
        self._tars = tars
        self._successes: list[int] = []  # by number; empty where somebody else wrote the tars
        probed = {*range(len(tars))[:_PROBED], *range(len(tars))[-_PROBED:]}
        if any(tars[number].beside(ending) is not None for number in sorted(probed) for ending in ("_stats.json", ".parquet")):
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                stats = list(pool.map(lambda tar: tar.beside("_stats.json"), tars))
            _check_finished(tars, stats)
            self._successes = [_successes(tar, data) for tar, data in zip(tars, stats, strict=True) if data is not None]

    def check(self, number: int, pairing: Pairing) -> None:
        """Compare a tar with the count of its _stats.json; raise DataError."""
        if not self._successes:
            return
        there = len({pair.key for pair in pairing.pairs} | {row.key for row in pairing.rejected})
        if there != self._successes[number]:
            raise DataError(
                f"The tar has {there} samples, its _stats.json says {self._successes[number]}",
                where=self._tars[number].name,
                fix="Remove both and let img2dataset make them again, or leave the tar out of `path`.",
            )

    def failed(self, number: int, uids: Uids | None) -> Iterator[Rejected]:
        """Yield the rows of a tar that img2dataset could not download or resize, as far as their uids are asked for."""
        data = self._tars[number].beside(".parquet") if self._successes else None
        if data is None:
            return
        try:
            with pq.ParquetFile(io.BytesIO(data)) as file:
                wanted = [name for name in ("key", "status", "error_message", FIELD) if name in file.schema_arrow.names]
                if "status" not in wanted:
                    return
                for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                    for row in batch.to_pylist():
                        if row["status"] != "success" and _is_asked_for(row, uids):
                            detail = f"{row['status']}: {row.get('error_message')}"
                            yield Rejected(str(row.get("key")), NOT_DOWNLOADED, detail)
        except pa.ArrowException as error:
            raise DataError(
                f"The .parquet beside the tar cannot be read: {error}", where=self._tars[number].name, fix="Remove or repair it."
            ) from None


def _check_finished(tars: Sequence[Tar], stats: Sequence[bytes | None]) -> None:
    missing = [tar.name for tar, data in zip(tars, stats, strict=True) if data is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(tars)} tars have no _stats.json, so img2dataset has not finished them",
            where=missing[0],
            fix="Let it finish (it goes on where it was), or name only the finished tars in `path`.",
        )


def _successes(tar: Tar, data: bytes) -> int:
    try:
        return int(json.loads(data)["successes"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The _stats.json beside the tar cannot be read: {type(error).__name__}", where=tar.name, fix="Make the tar again."
        ) from None


def _is_asked_for(row: dict[str, object], uids: Uids | None) -> bool:
    try:
        return uids is None or FIELD not in row or uids.keeps(row, "the .parquet")
    except BadRow:
        return False
