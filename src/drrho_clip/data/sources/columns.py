"""How a table is opened, and which of its columns holds what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.captions import CAPTION_FIELDS
from drrho_clip.data.sources.fields import PATH_CLASSES
from drrho_clip.data.sources.rows import LineRows, ParquetRows, Rows, TextRows, encoding_of
from drrho_clip.errors import DataError, nearest
from drrho_clip.observe import get_logger

IMAGE_FIELDS = (
    *("image", "image_path", "filepath", "file_path", "path", "filename", "file_name", "file"),
    *("jpg", "jpeg", "png", "webp", "image_bytes", "bytes"),
)
URL_FIELDS = ("url", "image_url", "img_url", "urls")

_PARQUET_MAGIC = b"PAR1"
_LOOKED_AT = 20  # first cells of a column that say what it holds
_SCHEMES = ("http://", "https://")


def open_rows(path: str, separator: str) -> Rows:
    """Open a table and say how it is read; raise DataError where there is none, or nothing in it."""
    rows = _open(Path(path).expanduser(), separator)
    get_logger().info("table_opened", path=str(rows.path), read_as=rows.about, columns=rows.columns)
    return rows


def _open(path: Path, separator: str) -> Rows:
    if not path.is_file():
        raise DataError("There is no such table", where=str(path), fix="Set `path` to a .csv, .tsv or .parquet file.")
    with path.open("rb") as file:
        if file.read(4) == _PARQUET_MAGIC:
            return ParquetRows(path)
    with path.open(encoding=encoding_of(path), errors="surrogateescape") as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    if header := _unwritten_header(first, separator):
        return TextRows(path, separator or "\t", (), header)
    is_column_of_urls = first.lower() in URL_FIELDS
    if is_column_of_urls or is_url(first):
        return LineRows(path, first if is_column_of_urls else "url", header=is_column_of_urls)
    return TextRows(path, separator, (*CAPTION_FIELDS, *IMAGE_FIELDS, *URL_FIELDS))


def _unwritten_header(first: str, separator: str) -> Sequence[str]:
    """Names of the columns of a table that starts with data, told by a URL in its first or second cell: CC12M's and CC3M's."""
    cells = first.split({"": "\t", "tab": "\t", "\\t": "\t"}.get(separator, separator))
    if len(cells) < 2 or not any(map(is_url, cells[:2])):
        return ()
    known = ("url", "caption") if is_url(cells[0]) else ("caption", "url")
    return (*known, *(f"column {number}" for number in range(3, len(cells) + 1)))


def is_url(cell: Any) -> bool:
    """Whether a cell is a URL of http or https."""
    return isinstance(cell, str) and cell.strip().lower().startswith(_SCHEMES)


def url_column(rows: Rows, config: IngestConfig) -> str | None:
    """Return the column whose images are given by URL, None where they are bytes or paths."""
    lowered = {name.strip().lower(): name for name in reversed(rows.columns)}
    likely = (config.image_field,) if config.image_field else IMAGE_FIELDS
    images = next((found for name in likely if (found := name if name in rows.columns else lowered.get(name))), None)
    if images is None:
        return None if config.image_field else next((lowered[name] for name in URL_FIELDS if name in lowered), None)
    return images if any(map(is_url, map(_path, first_cells(rows, images)))) else None


def find_column(rows: Rows, given: str, likely: Sequence[str], what: str) -> str:
    """Return the column `given`, or the first of `likely` that is there (in any case); raise DataError."""
    columns = rows.columns
    lowered = {name.strip().lower(): name for name in reversed(columns)}
    for name in (given,) if given else likely:
        if name in columns or (not given and name in lowered):
            return name if name in columns else lowered[name]
    missing = f"no column '{given}'" if given else f"no column that could be the {what} ({', '.join(likely)})"
    raise DataError(
        f"The table has {missing}. Its columns are {', '.join(columns)}",
        where=f"{rows.path}, {rows.about}",
        fix=f"Set `{what}_field`" + (" or `separator`. " if isinstance(rows, TextRows) else ". ") + nearest(given, columns),
    )


def other_columns(rows: Rows, config: IngestConfig) -> list[str]:
    """Return the columns of the class and the split, where there are any; raise DataError."""
    wanted = {"class": config.class_field, "split": config.split_field}
    return [find_column(rows, name, (), what) for what, name in wanted.items() if name and name not in PATH_CLASSES]


def first_cells(rows: Rows, column: str) -> list[Any]:
    """Return the first cells of a column that are not empty."""
    cells = (row.cells.get(column) for row in rows.read((column,)))
    return list(itertools.islice((cell for cell in cells if cell), _LOOKED_AT))


def row_key(number: int) -> str:
    """The key of a sample that is known by the number of its row."""
    return f"{number:09d}"


def _path(cell: Any) -> Any:
    return cell.get("path") if isinstance(cell, dict) else cell
