"""Tables of captions and images (bytes, or paths relative to the table): CSV, TSV and other separated text, and Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.base import Held, Piece, RawSample, Rejected
from drrho_clip.data.sources.captions import CAPTION_FIELDS, REPAIRED, BadRow, cell_text, clean_caption
from drrho_clip.data.sources.columns import IMAGE_FIELDS, find_column, first_cells, other_columns, row_key
from drrho_clip.data.sources.fields import class_of, display, split_of
from drrho_clip.data.sources.order import cut, joined, key_hash, seeded_order
from drrho_clip.data.sources.rows import ParquetRows, Row, Rows
from drrho_clip.errors import DataError


class TableSource:
    """The rows of one table.

    Rows with paths are listed (some 300 bytes of memory each) and given in a seeded hash order; their key is the path, with "#2",
    "#3" where it comes again. Rows with image bytes (Parquet; plain or as Hugging Face's struct of bytes and path) are read a
    few hundred at a time, row groups and the rows read together each in a seeded hash order; their key is the row's number,
    from 0.
    """

    notice = ""
    templates: tuple[str, ...] = ()
    classnames: tuple[str, ...] = ()
    downloads = False

    def __init__(self, config: IngestConfig, rows: Rows) -> None:
        """Look at the header and the first rows; raise DataError for missing columns, or nothing to read."""
        self._config, self._rows, self._path = config, rows, rows.path
        self._caption = find_column(rows, config.caption_field, CAPTION_FIELDS, "caption")
        self._image = find_column(rows, config.image_field, IMAGE_FIELDS, "image")
        self._wanted = tuple(dict.fromkeys((self._caption, self._image, *other_columns(rows, config))))
        first = self._first_images()
        self._holds_bytes = _image_bytes(first[0]) is not None
        self._listed = {} if self._holds_bytes else self._list()

    def total(self) -> int | None:
        """Number of rows."""
        return self._rows.total if isinstance(self._rows, ParquetRows) else len(self._listed)

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the rows whose key is not in `known`; the order is that of the class's docstring."""
        return joined(self.pieces(known))

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the same in pieces: of rows with bytes those that are read together."""
        if isinstance(self._rows, ParquetRows) and self._holds_bytes:
            return self._streamed(self._rows, known)
        keys = seeded_order(self._listed, self._config.seed, known)
        return cut(keys, self._config.shard_samples, partial(self._read, self._listed))

    def fingerprint(self) -> str:
        """That of the table."""
        return self._rows.fingerprint()

    def _read(self, rows: Mapping[str, Row], keys: Iterable[str]) -> Iterator[RawSample | Rejected]:
        return (self._sample(key, rows[key]) for key in keys)

    def _streamed(self, rows: ParquetRows, known: Collection[str]) -> Iterator[Piece]:
        seed = self._config.seed
        for group in sorted(range(len(rows.groups)), key=lambda group: key_hash(f"row group {group}", seed)):
            if all(row_key(number) in known for number in rows.groups[group]):
                continue
            for batch in rows.batches(group, self._wanted):
                keyed = {row_key(row.number): row for row in batch}
                keys = seeded_order(keyed, seed, known)
                yield Piece(len(keys), partial(self._read, keyed, keys))

    def _sample(self, key: str, row: Row) -> RawSample | Rejected:
        config = self._config
        try:
            if row.problem:
                raise BadRow("malformed_row", row.problem)
            texts = {name: cell_text(row.cells.get(name)) for name in self._wanted if name != self._image}
            caption, repaired = texts[self._caption]
            image, path = row.cells.get(self._image), _image_path(row.cells.get(self._image))
            data = _image_bytes(image)
            if data is None and not path:
                raise BadRow("no_image", f"row {row.number}: column '{self._image}' is empty")
            file = self._path.parent / path
            if data is None and not file.is_file():
                raise BadRow("unreadable", f"row {row.number}: no file {display(str(file))}")
            fields = {name: text for name, (text, _) in texts.items()}
            return RawSample(
                key=key,
                load=file.read_bytes if data is None else Held(data),
                caption=clean_caption(caption),
                class_name=class_of(config.class_field, fields, display(path)),
                split=split_of(config.split_field, fields),
                extra=dict(REPAIRED) if repaired else {},
            )
        except BadRow as error:
            return error.rejected(key)

    def _list(self) -> dict[str, Row]:
        seen: Counter[str] = Counter()
        listed = {}
        for row in self._rows.read(self._wanted):
            path = display(_image_path(row.cells.get(self._image))) or f"row {row.number}"
            seen[path] += 1
            listed[path if seen[path] == 1 else f"{path}#{seen[path]}"] = row
        return listed

    def _first_images(self) -> list[Any]:
        """Return the first cells of the image column; raise DataError where none of the files is there."""
        first = first_cells(self._rows, self._image)
        where = f"{self._path}, column '{self._image}'"
        if not first:
            raise DataError(
                "The table holds no image", where=where, fix="Set `image_field` to the column of image bytes or paths."
            )
        paths = [_image_path(cell) for cell in first if _image_bytes(cell) is None]
        if len(paths) == len(first) and not any((self._path.parent / path).is_file() for path in paths):
            raise DataError(
                f"None of the first {len(paths)} files is there, e.g. {display(paths[0])}",
                where=where,
                fix=f"Paths are taken relative to {self._path.parent}.",
            )
        return first


def _image_bytes(cell: Any) -> bytes | None:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else None


def _image_path(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else cell
    return path if isinstance(path, str) else ""
