"""The outcome table of a dataset that is downloaded: what became of every row, one Parquet file per ingest that had news.

One row per row of the source: its key and URL; its state, "ok" or a reason of `REASONS`, with the detail; the last HTTP status,
the attempts, the sha256 of the bytes; the look and whether it is a duplicate; the image's own mode, its class, and the index of
the sample in the dataset. Of a row that is named in several files the last one counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from drrho_clip.data.manifest import Manifest, dataset_id
from drrho_clip.data.prepare import Prepared, printable
from drrho_clip.data.sources.base import Fetch, Rejected
from drrho_clip.errors import DataError
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

OK = "ok"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("state", pa.string()),
        ("detail", pa.string()),
        ("status", pa.int16()),
        ("attempts", pa.int16()),
        ("sha256", pa.string()),
        ("look", pa.uint64()),
        ("duplicate", pa.string()),
        ("mode", pa.string()),
        ("class", pa.string()),
        ("index", pa.int64()),
    ]
)

NOTE = b"drrho"  # of a file's metadata: JSON
_BATCH_ROWS = 4096

Outcome = dict[str, Any]


def outcome_of(result: Prepared | Rejected, index: int | None = None) -> Outcome:
    """Return the row of the table: of a sample that was written with this index, or of a row without one."""
    fetch = result.fetch or Fetch("")
    row: Outcome = {
        "key": result.key,
        "url": printable(fetch.url),
        "status": fetch.status or None,
        "attempts": fetch.attempts,
        "sha256": fetch.sha256 or None,
    }
    if isinstance(result, Rejected):
        return row | {"state": result.reason, "detail": printable(result.detail)[:300]}
    look = result.image.looks[0] if result.image.looks else None
    return row | {
        "state": OK,
        "look": look,
        "duplicate": result.duplicate or None,
        "mode": result.image.mode,
        "class": result.class_name,
        "index": index,
    }


def to_bytes(table: pa.Table, note: dict[str, Any]) -> bytes:
    """Return a table as a Parquet file that carries a note."""
    stream = io.BytesIO()
    noted = table.replace_schema_metadata({NOTE: json.dumps(note, sort_keys=True)})
    pq.write_table(noted, stream, compression="zstd")
    return stream.getvalue()


def note_of(file: pq.ParquetFile) -> dict[str, Any]:
    """Return the note that a file carries."""
    return dict(json.loads((file.metadata.metadata or {}).get(NOTE, b"{}")))


def rows_of(file: pq.ParquetFile) -> Iterator[Outcome]:
    """Yield the rows of a file, a few thousand in memory."""
    for batch in file.iter_batches(_BATCH_ROWS):
        yield from batch.to_pylist()


def published_tables(store: Store, manifest: Manifest) -> Iterator[tuple[int, Iterator[Outcome]]]:
    """Yield (number, rows) of all outcome tables of a dataset, the newest first; they overlap where a row was tried again.

    A table belongs to the dataset if the shards that it was written for are the first ones of the manifest: what an ingest left
    that was never published does not. Raises DataError for a table that cannot be read.
    """
    ids = {dataset_id(manifest.shards[:count]) for count in range(len(manifest.shards) + 1)}
    for info in reversed(list(store.list(layout.outcomes(manifest.name) + "/"))):
        with tempfile.TemporaryDirectory(prefix="drrho-") as folder:
            path = Path(folder) / "outcomes.parquet"
            store.download(info.key, path)
            try:
                with pq.ParquetFile(path) as file:
                    if note_of(file).get("dataset_id") in ids:
                        yield int(info.key.rpartition("/")[2][:6]), rows_of(file)
            except pa.ArrowException as error:
                raise DataError(f"An outcome table cannot be read: {error}", where=store.uri_of(info.key)) from None


class OutcomePart:
    """Rows of the table that came since the last shard."""

    def __init__(self) -> None:
        self._waiting: list[Outcome] = []
        self._tables: list[pa.Table] = []

    def add(self, row: Outcome) -> None:
        """Add one row."""
        self._waiting.append(row)
        if len(self._waiting) >= _BATCH_ROWS:
            self._pack()

    def end(self) -> pa.Table:
        """Return them and begin anew."""
        self._pack()
        table = pa.concat_tables(self._tables) if self._tables else SCHEMA.empty_table()
        self._tables = []
        return table

    def _pack(self) -> None:
        if self._waiting:
            self._tables.append(pa.Table.from_pylist(self._waiting, SCHEMA))
            self._waiting = []


class OutcomeFile:
    """The outcome table of one ingest while it grows, in the temporary folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="drrho-outcomes-")
        self._path = Path(self._folder.name) / "outcomes.parquet"
        self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")

    def append(self, table: pa.Table) -> None:
        """Write a whole part."""
        if table.num_rows:
            self._writer.write_table(table.replace_schema_metadata(None).combine_chunks())

    def publish(self, store: Store, dataset: str, number: int, note: dict[str, Any]) -> None:
        """Put the table into the store, under a name that says its bytes: two ingests at once cannot spoil each other's."""
        self._writer.add_key_value_metadata({NOTE.decode(): json.dumps(note, sort_keys=True)})
        self._writer.close()
        with self._path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        store.upload(layout.outcome_table(dataset, number, digest), self._path)

    def close(self) -> None:
        """Remove the temporary file."""
        self._writer.close()
        self._folder.cleanup()
