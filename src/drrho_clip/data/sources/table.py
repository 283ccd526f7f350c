"""Tables of captions and images (bytes, or paths relative to the table): CSV, TSV and other separated text, and Parquet."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.base import Held, RawSample, Rejected
from drrho_clip.data.sources.captions import CAPTION_FIELDS, REPAIRED, BadRow, clean_caption, decode_text
from drrho_clip.data.sources.fields import PATH_CLASSES, class_of, display, split_of
from drrho_clip.data.sources.order import key_hash, seeded_order
from drrho_clip.data.sources.rows import ParquetRows, Row, TextRows
from drrho_clip.errors import DataError, nearest
from drrho_clip.observe import get_logger

IMAGE_FIELDS = (
    *("image", "image_path", "filepath", "file_path", "path", "filename", "file_name", "file"),
    *("jpg", "jpeg", "png", "webp", "image_bytes", "bytes"),
)
URL_FIELDS = ("url", "image_url", "img_url", "urls")

_PARQUET_MAGIC = b"PAR1"
_LOOKED_AT = 20  # rows whose files are looked for at the start


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

    def __init__(self, config: IngestConfig) -> None:
        """Read the header and look at the first rows; raise DataError for missing columns, URLs, or nothing to read."""
        self._config = config
        self._path = Path(config.path).expanduser()
        self._rows = _open_rows(self._path, config.separator)
        get_logger().info("table_opened", path=str(self._path), read_as=self._rows.about, columns=self._rows.columns)
        self._caption = self._column(config.caption_field, CAPTION_FIELDS, "caption")
        self._image = self._column(config.image_field, IMAGE_FIELDS, "image")
        fields = [name for name in (config.class_field, config.split_field) if name and name not in PATH_CLASSES]
        for name in fields:
            self._column(name, (), "class" if name == config.class_field else "split")
        self._wanted = tuple(dict.fromkeys((self._caption, self._image, *fields)))
        first = self._first_images()
        self._holds_bytes = _image_bytes(first[0]) is not None
        self._listed = {} if self._holds_bytes else self._list()

    def total(self) -> int | None:
        """Number of rows."""
        return self._rows.total if isinstance(self._rows, ParquetRows) else len(self._listed)

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the rows whose key is not in `known`; the order is that of the class's docstring."""
        if isinstance(self._rows, ParquetRows) and self._holds_bytes:
            yield from self._streamed(self._rows, known)
            return
        for key in seeded_order(self._listed, self._config.seed, known):
            yield self._sample(key, self._listed[key])

    def _streamed(self, rows: ParquetRows, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        seed = self._config.seed
        for group in sorted(range(len(rows.groups)), key=lambda group: key_hash(f"row group {group}", seed)):
            if all(_row_key(number) in known for number in rows.groups[group]):
                continue
            for batch in rows.batches(group, self._wanted):
                keyed = {_row_key(row.number): row for row in batch}
                for key in seeded_order(keyed, seed, known):
                    yield self._sample(key, keyed[key])

    def _sample(self, key: str, row: Row) -> RawSample | Rejected:
        config = self._config
        try:
            if row.problem:
                raise BadRow("malformed_row", row.problem)
            texts = {name: _text(row.cells.get(name)) for name in self._wanted if name != self._image}
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

    def _column(self, given: str, likely: tuple[str, ...], what: str) -> str:
        """Return the column `given`, or the first of `likely` that is there (in any case)."""
        columns = self._rows.columns
        lowered = {name.strip().lower(): name for name in reversed(columns)}
        for name in (given,) if given else likely:
            if name in columns or (not given and name in lowered):
                return name if name in columns else lowered[name]
        if what == "image" and not given and any(name in lowered for name in URL_FIELDS):
            raise _urls_unsupported(str(self._path))
        missing = f"no column '{given}'" if given else f"no column that could be the {what} ({', '.join(likely)})"
        raise DataError(
            f"The table has {missing}. Its columns are {', '.join(columns)}",
            where=f"{self._path}, {self._rows.about}",
            fix=f"Set `{what}_field`"
            + (" or `separator`. " if isinstance(self._rows, TextRows) else ". ")
            + nearest(given, columns),
        )

    def _first_images(self) -> list[Any]:
        """Return the first cells of the image column; raise DataError where they are URLs or none of the files is there."""
        cells = (row.cells.get(self._image) for row in self._rows.read((self._image,)))
        first = list(itertools.islice((cell for cell in cells if cell), _LOOKED_AT))
        where = f"{self._path}, column '{self._image}'"
        if not first:
            raise DataError(
                "The table holds no image", where=where, fix="Set `image_field` to the column of image bytes or paths."
            )
        paths = [_image_path(cell) for cell in first if _image_bytes(cell) is None]
        if any(path.lower().startswith(("http://", "https://")) for path in paths):
            raise _urls_unsupported(where)
        if len(paths) == len(first) and not any((self._path.parent / path).is_file() for path in paths):
            raise DataError(
                f"None of the first {len(paths)} files is there, e.g. {display(paths[0])}",
                where=where,
                fix=f"Paths are taken relative to {self._path.parent}.",
            )
        return first


def _open_rows(path: Path, separator: str) -> TextRows | ParquetRows:
    if not path.is_file():
        raise DataError("There is no such table", where=str(path), fix="Set `path` to a .csv, .tsv or .parquet file.")
    with path.open("rb") as file:
        is_parquet = file.read(4) == _PARQUET_MAGIC
    return ParquetRows(path) if is_parquet else TextRows(path, separator, (*CAPTION_FIELDS, *IMAGE_FIELDS, *URL_FIELDS))


def _urls_unsupported(where: str) -> DataError:
    return DataError(
        "The images are given by URL, which this version does not download",
        where=where,
        fix="Download them first (img2dataset writes shards, see source 'shards'), or set `image_field` to local paths or bytes.",
    )


def _row_key(number: int) -> str:
    return f"{number:09d}"


def _image_bytes(cell: Any) -> bytes | None:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else None


def _image_path(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else cell
    return path if isinstance(path, str) else ""


def _text(cell: Any) -> tuple[Any, bool]:
    """Return (cell, whether it was repaired): bytes and escaped bytes are decoded by the rule of `decode_text`."""
    if isinstance(cell, str) and any("\udc80" <= character <= "\udcff" for character in cell):
        cell = cell.encode("utf-8", "surrogateescape")
    return decode_text(cell) if isinstance(cell, bytes) else (cell, False)
