"""Rows of separated text and of Parquet, one interface; cells as they are, text that is not UTF-8 with its bytes escaped."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drrho_clip.errors import ConfigError, DataError

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}

_SAMPLE_CHARACTERS = 1 << 18
_BATCH_ROWS = 256
_PARQUET_END = 8  # bytes behind the metadata: their size and the magic
_BUFFER = 1 << 20  # bytes read ahead of a column, instead of its whole part of the row group


@dataclass(frozen=True)
class Row:
    """One row: its number from 0, the wanted cells by column, and what is wrong with it ("" = nothing)."""

    number: int
    cells: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class TextRows:
    """CSV and its relatives; quoted cells may hold separators and line ends. What is not UTF-8 becomes surrogate escapes."""

    total: int | None = None

    def __init__(self, path: Path, separator: str, likely: Collection[str], header: Sequence[str] = ()) -> None:
        """Read the header; an empty `separator` is guessed: most columns of a name in `likely`, then most even rows.

        A table that has no header gets `header`; in it quotes are plain characters.
        """
        self.path = path
        self._encoding = encoding_of(path)
        self._header = bool(header)
        self.separator = _given_separator(separator) or self._guess(likely)
        self.columns = tuple(header) or tuple(next(iter(self._records()), (0, []))[1])
        if not self.columns:
            raise DataError("The table is empty", where=str(path))

    def fingerprint(self) -> str:
        """Hash of the file."""
        return _file_hash(self.path)

    @property
    def about(self) -> str:
        """How the table was read, for messages."""
        return f"separator {SEPARATORS.get(self.separator, repr(self.separator))}" + (", no header" if self._header else "")

    def read(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows with the cells of `columns`; a row with too many cells, or one that swallowed others, has a problem."""
        places = [(name, self.columns.index(name)) for name in columns]
        records = self._records()
        if not self._header:
            next(records)
        for number, (line, cells) in enumerate(records):
            if len(cells) > len(self.columns):
                yield Row(number, problem=f"line {line}: {len(cells)} cells for {len(self.columns)} columns")
            elif self.separator == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
                yield Row(number, problem=f"line {line}: an unclosed quote joins it with lines before")
            else:
                yield Row(number, {name: cells[place] for name, place in places if place < len(cells)})

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (last line, cells) of every record that is not blank, the header first."""
        with self.path.open(encoding=self._encoding, errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=self.separator, quoting=csv.QUOTE_NONE if self._header else csv.QUOTE_MINIMAL)
            try:
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
            except (csv.Error, UnicodeError) as error:
                raise DataError(
                    f"The table cannot be read: {error}",
                    where=f"{self.path}, near line {reader.line_num + 1}, {self.about}",
                    fix="Look for an unclosed quote there, or set `separator`.",
                ) from None

    def _guess(self, likely: Collection[str]) -> str:
        with self.path.open(encoding=self._encoding, errors="surrogateescape", newline="") as file:
            sample = file.read(_SAMPLE_CHARACTERS)
        return max(SEPARATORS, key=lambda separator: _fitness(sample, separator, likely))


class LineRows:
    """A plain list: every line that is not blank is one cell, whatever it holds."""

    about = "list of lines"
    total: int | None = None

    def __init__(self, path: Path, column: str, *, header: bool = False) -> None:
        """Name the one column; `header` says that the first line is not of the list."""
        self.path, self.columns, self._header = path, (column,), header

    def fingerprint(self) -> str:
        """Hash of the file."""
        return _file_hash(self.path)

    def read(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all lines, without the white space around them."""
        with self.path.open(encoding=encoding_of(self.path), errors="surrogateescape") as file:
            lines = (text for line in file if (text := line.strip()))
            for number, text in enumerate(itertools.islice(lines, int(self._header), None)):
                yield Row(number, dict.fromkeys(columns, text))


def encoding_of(path: Path) -> str:
    """UTF-16 where a byte order mark says so, else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _given_separator(text: str) -> str:
    separator = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        raise ConfigError(f"separator {text!r} cannot separate columns", fix="Give one character, or 'tab'.")
    return separator


def _fitness(sample: str, separator: str, likely: Collection[str]) -> tuple[int, float, int]:
    try:
        rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row][:100]
    except csv.Error:
        return 0, 0.0, 0
    if not rows or len(rows[0]) < 2:
        return 0, 0.0, 0
    named = sum(name.strip().lower() in likely for name in rows[0])
    return named, sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0])


class ParquetRows:
    """A Parquet file, read a few hundred rows at a time and only the wanted columns."""

    about = "Parquet"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER)
        except (pa.ArrowException, OSError) as error:
            raise _broken(error, str(path)) from None
        self.columns = tuple(self._file.schema_arrow.names)
        self.total: int = self._file.metadata.num_rows
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.metadata.num_row_groups)]
        starts = [sum(counts[:group]) for group in range(len(counts))]
        self.groups = [range(start, start + count) for start, count in zip(starts, counts, strict=True)]

    def fingerprint(self) -> str:
        """Hash of the file's size and its end, which says where every column lies and how large it is."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(max(0, size - self._file.metadata.serialized_size - _PARQUET_END))
            return f"{size}-{hashlib.file_digest(file, 'sha256').hexdigest()}"

    def read(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows with the cells of `columns`, in the order of the file."""
        for group in range(len(self.groups)):
            for batch in self.batches(group, columns):
                yield from batch

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[list[Row]]:
        """Yield the rows of one row group, a few hundred at once."""
        number = self.groups[group].start
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns)):
                cells = [_cells(batch.column(name)) for name in columns]
                yield [Row(number + i, dict(zip(columns, row, strict=True))) for i, row in enumerate(zip(*cells, strict=True))]
                number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise _broken(error, f"{self.path}, row group {group}") from None


Rows = TextRows | LineRows | ParquetRows


def _broken(error: Exception, where: str) -> DataError:
    return DataError(
        "The Parquet file cannot be read: " + " ".join(str(error).split()), where=where, fix="Fetch or write it again."
    )


def _cells(column: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [
            value if value is None else value.decode("utf-8", "surrogateescape") for value in column.cast(pa.binary()).to_pylist()
        ]
