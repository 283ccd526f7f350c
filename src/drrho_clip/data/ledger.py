"""Who keeps account of the rows of an ingest: which samples are there, and for tables of URLs an outcome table of all rows.

While an ingest goes on the account of each shard lies beside it, so that one that was killed goes on behind its last shard. With
an outcome table a row that is known is never fetched again, unless it failed for a passing reason and that is asked for.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drrho_clip.data.download.reasons import PASSING_REASONS
from drrho_clip.data.duplicates import Duplicates
from drrho_clip.data.manifest import CHECKED_AT_ONCE, Manifest, Shard, dataset_id
from drrho_clip.data.outcomes import OK, Outcome, OutcomeFile, OutcomePart, note_of, outcome_of, published_tables, to_bytes
from drrho_clip.data.prepare import Prepared
from drrho_clip.data.sources.base import LEFT_OUT, REASONS, Rejected
from drrho_clip.data.sources.columns import row_key
from drrho_clip.data.writer import ShardWriter, read_keys
from drrho_clip.errors import DataError, ObjectMissing
from drrho_clip.observe import get_logger
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.data.config import IngestConfig
    from drrho_clip.data.tally import Tally
    from drrho_clip.storage import Store

_STATES = ("", OK, LEFT_OUT, *REASONS)  # their numbers are used in memory only
_NUMBERS = {state: number for number, state in enumerate(_STATES)}
_PASSING = frozenset(_NUMBERS[reason] for reason in PASSING_REASONS)


class Ledger:
    """Knows the samples that are there, by their keys. Rows that gave none cost little: they are looked at every time."""

    unique_keys = False  # whether two rows can have one key
    changed = False  # whether there is something to publish besides shards

    def __init__(self, store: Store, existing: Manifest | None, config: IngestConfig, made: dict[str, Any]) -> None:
        """Begin; `made` is what the account of a killed ingest must have been made with to count."""
        self._store, self._existing, self._dataset = store, existing, config.dataset
        made = {"settings": made, "grown from": existing.id if existing else None}
        self._fingerprint = hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()
        self._part = OutcomePart()
        self._parts: list[str] = []  # of the shards of this ingest
        self.known: Collection[str] = self._known()
        self.written: set[str] = set()  # samples that are in shards of this ingest, which was killed

    def read_published(self, tally: Tally) -> None:
        """Take over what is published: rows that are not tried again."""

    def catch_up(self, writer: ShardWriter, tally: Tally) -> None:
        """Take over what is there: what is published, and finished shards of an ingest that was killed."""
        self.read_published(tally)
        if self._existing:
            shards = self._existing.shards
            if self._store.head(layout.shard_outcomes(shards[-1].key)):  # an ingest was killed after it had published
                self._delete([layout.shard_outcomes(shard.key) for shard in shards])
        rows = 0
        while (part := self._left(writer)) is not None:
            table, note = part
            self._take_over(table, tally)
            writer.adopt(Shard(**note["shard"]), note["files"], note["exchanged"])
            self._parts.append(layout.shard_outcomes(note["shard"]["key"]))
            rows += table.num_rows
        if self._parts:
            get_logger().info("ingest_goes_on", dataset=self._dataset, shards=len(self._parts), rows=rows)

    def judge(self, sample: Prepared) -> Prepared | Rejected:
        """Return the sample, or its rejection as a duplicate."""
        return sample

    def note(self, row: Rejected) -> None:
        """Take note of a row without a sample."""

    def wrote(self, shard: Shard, samples: Sequence[Prepared], writer: ShardWriter) -> None:
        """Take note of a shard; the part that says so lies beside it until the dataset is published."""
        for position, sample in enumerate(samples):
            self._part.add(outcome_of(sample, shard.base + position))
        note = {
            "fingerprint": self._fingerprint,
            "shard": shard.model_dump(),
            "files": writer.files_of(shard),
            "exchanged": writer.exchanged,
        }
        self._parts.append(layout.shard_outcomes(shard.key))
        self._store.write(self._parts[-1], to_bytes(self._end_part(), note))

    def publish(self, shards: Sequence[Shard]) -> None:
        """Write the account of a dataset that has these shards from now on."""

    def clean(self) -> None:
        """Remove from the store what was of use only until the shards of this ingest were published."""
        self._delete(self._parts)

    def close(self) -> None:
        """Remove temporary files."""

    def _known(self) -> Collection[str]:
        return _known_keys(self._store, self._existing)

    def _take_over(self, part: pa.Table, tally: Tally) -> None:
        """Count the rows that belong to a shard of a killed ingest."""
        for row in part.to_pylist():
            self.written.add(row["key"])
            tally.replay_good(row["mode"], row["class"], "")

    def _end_part(self) -> pa.Table:
        return self._part.end()

    def _left(self, writer: ShardWriter) -> tuple[pa.Table, dict[str, Any]] | None:
        """Return the part of the next shard, if the same ingest has left it and its shard, whole."""
        key = layout.shard_outcomes(layout.shard(self._dataset, len(writer.shards)))
        try:
            with pq.ParquetFile(io.BytesIO(self._store.read(key))) as file:
                note = note_of(file)
                if note.get("fingerprint") != self._fingerprint or note["shard"]["base"] != writer.total:
                    return None
                found = (self._store.head(name) for name in note["files"])
                if any(info is None or info.etag != etag for info, etag in zip(found, note["files"].values(), strict=True)):
                    return None
                return file.read(), note
        except (ObjectMissing, pa.ArrowException):
            return None

    def _delete(self, parts: Sequence[str]) -> None:
        """Remove parts, the last one last: where it is gone, all are."""
        if parts:
            with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
                list(pool.map(self._store.delete, parts[:-1]))
            self._store.delete(parts[-1])


class RowLedger(Ledger):
    """Keeps account of every row, by its number: a byte of memory each."""

    unique_keys = True

    def __init__(self, store: Store, existing: Manifest | None, config: IngestConfig, made: dict[str, Any]) -> None:
        """As above; `made` are the settings."""
        self._rows = KnownRows(retry=config.retry_failed)
        super().__init__(store, existing, config, made)
        self._duplicates = Duplicates(config.drop_duplicates)
        self._file = OutcomeFile()
        self._tables = 0

    @property
    def changed(self) -> bool:  # type: ignore[override]
        """Whether a row was new, or ended in another state than before."""
        return self._rows.changed

    def read_published(self, tally: Tally) -> None:
        """Read the outcome tables and count the rows that are not tried again."""
        if self._existing:
            self._read(self._existing, tally)

    def judge(self, sample: Prepared) -> Prepared | Rejected:
        """Return the sample, marked if it is a duplicate, or its rejection as one."""
        return self._duplicates.judge(sample)

    def note(self, row: Rejected) -> None:
        """Take note of a row without a sample."""
        self._rows.settle(row.key, row.reason)
        self._part.add(outcome_of(row))

    def wrote(self, shard: Shard, samples: Sequence[Prepared], writer: ShardWriter) -> None:
        """Take note of a shard and its rows."""
        for sample in samples:
            self._rows.settle(sample.key, OK)
        super().wrote(shard, samples, writer)

    def publish(self, shards: Sequence[Shard]) -> None:
        """Write the outcome table of this ingest; it counts from the moment on that a manifest has these shards."""
        self._end_part()
        self._file.publish(self._store, self._dataset, self._tables + 1, {"dataset_id": dataset_id(shards)})

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _known(self) -> Collection[str]:
        return self._rows

    def _take_over(self, part: pa.Table, tally: Tally) -> None:
        self._file.append(part)
        for row in part.to_pylist():
            self._rows.settle(row["key"], row["state"])
            self._remember(row)
            if row["state"] == OK:
                tally.replay_good(row["mode"], row["class"], row["duplicate"] or "")
            else:
                tally.replay(row["key"], row["state"], row["detail"] or "")

    def _end_part(self) -> pa.Table:
        part = super()._end_part()
        self._file.append(part)
        return part

    def _read(self, existing: Manifest, tally: Tally) -> None:
        samples = 0
        for number, rows in published_tables(self._store, existing):
            self._tables = max(self._tables, number)
            for row in rows:
                if self._rows.state(row["key"]):
                    continue  # a newer table names it too
                self._rows.set(row["key"], row["state"])
                self._remember(row)
                samples += row["state"] == OK
                if row["state"] != OK and row["key"] in self._rows:
                    tally.replay(row["key"], row["state"], row["detail"] or "")
        if samples != existing.total:
            raise DataError(
                f"The outcome tables of dataset '{existing.name}' account for {samples} of {existing.total} samples",
                where=self._store.uri_of(layout.outcomes(existing.name)),
                fix="Restore them from a backup, or ingest under a new dataset name.",
            )

    def _remember(self, row: Outcome) -> None:
        if row["state"] == OK:
            self._duplicates.remember(row["sha256"], row["look"], row["duplicate"] or "")
        elif row["state"] == "duplicate_look":
            self._duplicates.remember(row["sha256"], None, "look")


class KnownRows(Collection[str]):
    """The rows that are not to be fetched, among all whose state is known; keys are row numbers."""

    def __init__(self, *, retry: bool) -> None:
        self._states = bytearray()
        self._settled = bytearray()  # by this ingest
        self._again = _PASSING if retry else frozenset()
        self.changed = False

    def set(self, key: str, state: str) -> None:
        """Note how a row ended in an earlier ingest."""
        number = self._reach(key)
        self._states[number] = _NUMBERS[state]

    def settle(self, key: str, state: str) -> None:
        """Note how a row ends in this ingest."""
        number = self._reach(key)
        self.changed |= self._states[number] != _NUMBERS[state]
        self._states[number], self._settled[number] = _NUMBERS[state], 1

    def state(self, key: str) -> str:
        """Return the state of a row, "" where it has none."""
        number = int(key)
        return _STATES[self._states[number]] if number < len(self._states) else ""

    def __contains__(self, key: object) -> bool:
        number = int(str(key))
        return number < len(self._states) and self._is_known(number)

    def __iter__(self) -> Iterator[str]:
        return (row_key(number) for number in range(len(self._states)) if self._is_known(number))

    def __len__(self) -> int:
        states, settled = (np.frombuffer(rows, dtype=np.uint8) for rows in (self._states, self._settled))
        return int(np.count_nonzero((states != 0) & ((settled != 0) | ~np.isin(states, list(self._again)))))

    def _is_known(self, number: int) -> bool:
        state = self._states[number]
        return state != 0 and (self._settled[number] != 0 or state not in self._again)

    def _reach(self, key: str) -> int:
        number = int(key)
        missing = number + 1 - len(self._states)
        if missing > 0:
            self._states.extend(bytes(missing))
            self._settled.extend(bytes(missing))
        return number


def _known_keys(store: Store, existing: Manifest | None) -> set[str]:
    if existing is None:
        return set()
    with ThreadPoolExecutor(16) as pool:
        return set(itertools.chain.from_iterable(pool.map(lambda shard: read_keys(store, existing, shard), existing.shards)))
