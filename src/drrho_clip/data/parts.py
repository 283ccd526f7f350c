"""What the groups of an ingest hand to the one that publishes: prepared rows, a file per piece of the source and round of tries.

A part is a Parquet file: "row", the JSON of a sample without its image or of a rejected row, and "image", its encoded bytes (none
where the sample stays where it lies); its metadata has the note of its piece. A piece is done when the parts of all rounds are
there. Of two groups that do one piece the first one's part stays, and the other leaves the piece: so the rounds of a piece always
fit each other.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from drrho_clip.data.images import PreparedImage
from drrho_clip.data.outcomes import NOTE, note_of
from drrho_clip.data.prepare import Prepared
from drrho_clip.data.sources.base import Fetch, Place, Rejected
from drrho_clip.data.tar_index import Member
from drrho_clip.errors import DataError, ObjectChanged, ObjectMissing
from drrho_clip.storage import layout
from drrho_clip.storage.files import disk_errors

if TYPE_CHECKING:
    from drrho_clip.storage import Store

SCHEMA = pa.schema([("row", pa.string()), ("image", pa.binary())])

_ROWS = 64  # written and read at once
_READ_AHEAD = 2  # parts that are fetched while another is used


class PartsGone(Exception):
    """Parts that were there are gone: another process has put all together meanwhile, and cleaned up."""


@dataclass(frozen=True)
class Result:
    """What became of a row, and whether the source gave a sample at first (else it was a row without one)."""

    row: Prepared | Rejected
    was_sample: bool


@dataclass(frozen=True)
class Parts:
    """The parts of one ingest: `fingerprint` says of what rows and settings, `rounds` how many parts a piece has."""

    store: Store
    dataset: str
    fingerprint: str
    rounds: int

    def key(self, piece: int, round_number: int) -> str:
        """Key of the part of one round, counted from 1."""
        return layout.group_part(self.dataset, self.fingerprint, piece, round_number)

    def finished(self) -> dict[int, int]:
        """Return how many rounds of each piece are done, from the first one on; pieces without any are left out."""
        there: dict[int, set[int]] = {}
        for info in self.store.list(f"{layout.group_work(self.dataset)}/{self.fingerprint}/"):
            if info.key.endswith(".part"):
                piece, round_number, _ = info.key.rpartition("/")[2].split(".")
                there.setdefault(int(piece), set()).add(int(round_number))
        rounds = range(1, self.rounds + 1)
        done = {
            piece: next((number - 1 for number in rounds if number not in found), self.rounds) for piece, found in there.items()
        }
        return {piece: count for piece, count in done.items() if count}

    def has(self, piece: int, round_number: int) -> bool:
        """Whether this part is there."""
        return self.store.head(self.key(piece, round_number)) is not None

    def write(self, piece: int, round_number: int, path: Path) -> bool:
        """Put a part; False where another group was faster, whose part stays."""
        try:
            self.store.upload(self.key(piece, round_number), path, if_absent=True)
        except ObjectChanged:
            return False
        return True

    def read(self, wanted: Iterable[tuple[int, int]], take: Callable[[dict[str, Any]], None]) -> Iterator[Result]:
        """Yield the rows of the parts (piece, round), one after the other, after `take` was given the part's note.

        PartsGone, DataError for a part that cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="drrho-parts-") as folder, ThreadPoolExecutor(_READ_AHEAD) as pool:
            names = iter(wanted)
            coming = [pool.submit(self._fetch, *name, Path(folder)) for name in itertools.islice(names, _READ_AHEAD)]
            while coming:
                path = coming.pop(0).result()
                if (name := next(names, None)) is not None:
                    coming.append(pool.submit(self._fetch, *name, Path(folder)))
                yield from _results_of(path, take, self.store.uri_of(layout.group_work(self.dataset)))
                path.unlink()

    def settled(self, piece: int, rounds: int) -> Iterator[str]:
        """Yield the keys of the rows that the first `rounds` rounds of a piece have brought to their end; PartsGone."""
        for round_number in range(1, rounds + 1):
            try:
                data = self.store.read(self.key(piece, round_number))
            except ObjectMissing as error:
                raise PartsGone from error
            for text in pq.read_table(pa.BufferReader(data), columns=["row"])["row"].to_pylist():
                yield str(json.loads(text)["key"])

    def enter(self) -> str:
        """Say that a process works on this; return the key that says so, for the two functions below."""
        presence = layout.group_presence(self.dataset, self.fingerprint, secrets.token_hex(4))
        self.store.write(presence, b"")
        return presence

    def is_wanted(self, presence: str) -> bool:
        """Whether what the process does is still of use: nobody has put all together and cleaned up since it entered."""
        return self.store.head(presence) is not None

    def leave(self, presence: str) -> None:
        """Say that the process has ended, and remove what it has put there after another one has cleaned up."""
        if self.is_wanted(presence):
            self.store.delete(presence)
        else:
            self._delete(info.key for info in self.store.list(presence.rpartition("/")[0] + "/"))

    def clean(self) -> None:
        """Remove all parts of the dataset, those of other settings too, and what comes meanwhile."""
        while keys := [info.key for info in self.store.list(f"{layout.group_work(self.dataset)}/")]:
            self._delete(keys)

    def _delete(self, keys: Iterable[str]) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(self.store.delete, keys))

    def _fetch(self, piece: int, round_number: int, folder: Path) -> Path:
        path = folder / f"{piece}.{round_number}"
        try:
            self.store.download(self.key(piece, round_number), path)
        except ObjectMissing as error:
            raise PartsGone from error
        return path


class PartFile:
    """A part while it grows, in the temporary folder."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="drrho-part-", suffix=".parquet")
        os.close(handle)
        self.path = Path(name)
        # images do not get smaller, and their statistics would hold whole images
        self._writer = pq.ParquetWriter(
            self.path, SCHEMA, compression={"row": "zstd", "image": "none"}, use_dictionary=False, write_statistics=False
        )
        self._waiting: list[dict[str, Any]] = []

    def add(self, result: Result) -> None:
        """Add one row."""
        row = result.row
        image = None if isinstance(row, Rejected) else b"" if row.place else row.image.data
        self._waiting.append({"row": _to_json(result), "image": image})
        if len(self._waiting) == _ROWS:
            self._write()

    def end(self, note: dict[str, Any]) -> Path:
        """Return the whole file, with the note of its piece."""
        self._write()
        self._writer.add_key_value_metadata({NOTE: json.dumps(note)})
        self._writer.close()
        return self.path

    def remove(self) -> None:
        """Remove the file."""
        self._writer.close()
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._waiting:
            with disk_errors(self.path):
                self._writer.write_table(pa.Table.from_pylist(self._waiting, SCHEMA))
        self._waiting = []


def _to_json(result: Result) -> str:
    row = result.row
    record: dict[str, Any] = {"key": row.key, "was_sample": result.was_sample, "fetch": asdict(row.fetch) if row.fetch else None}
    if isinstance(row, Rejected):
        return json.dumps(record | {"reason": row.reason, "detail": row.detail})
    image = {name: value for name, value in asdict(row.image).items() if name != "data"}
    sample = {"caption": row.caption, "class_name": row.class_name, "split": row.split, "extra": row.extra, "image": image}
    place = {"place": asdict(row.place)} if row.place else {}
    return json.dumps(record | sample | place, default=str)


def _from_json(text: str, image: bytes | None) -> Result:
    record = json.loads(text)
    fetch = Fetch(**record["fetch"]) if record["fetch"] else None
    if image is None:
        return Result(Rejected(record["key"], record["reason"], record["detail"], fetch), record["was_sample"])
    looks = tuple(record["image"].pop("looks"))
    names = ("key", "caption", "class_name", "split", "extra")
    prepared = PreparedImage(data=image, looks=looks, **record["image"])
    place = _place(**record["place"]) if "place" in record else None
    sample = Prepared(**{name: record[name] for name in names}, image=prepared, fetch=fetch, place=place)
    return Result(sample, record["was_sample"])


def _place(tar: int, members: list[tuple[str, int, int, str]]) -> Place:
    return Place(tar, tuple(Member(*member) for member in members))


def _results_of(path: Path, take: Callable[[dict[str, Any]], None], where: str) -> Iterator[Result]:
    try:
        with pq.ParquetFile(path) as file:
            take(note_of(file))
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield _from_json(row["row"], row["image"])
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"What a group has prepared cannot be read: {' '.join(str(error).split())}",
            where=where,
            fix="Delete this folder and run the groups again.",
        ) from None
