"""Tables whose images are given by URL, read and downloaded as a stream in the order of their rows."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.download.limits import DownloadLimits
from drrho_clip.data.download.ordered import Answer, Failed, Fetched, Job, download_in_order
from drrho_clip.data.sources.base import Fetch, Held, Piece, RawSample, Rejected
from drrho_clip.data.sources.captions import (
    CAPTION_FIELDS,
    REPAIRED,
    BadRow,
    caption_from_path,
    cell_text,
    check_template,
    clean_caption,
)
from drrho_clip.data.sources.columns import find_column, first_cells, other_columns, row_key
from drrho_clip.data.sources.fields import class_of, ending_of, split_of, text_or_none
from drrho_clip.data.sources.rows import LineRows, Row, Rows
from drrho_clip.errors import DataError
from drrho_clip.observe import get_logger

_NOTHING = Held(b"")  # the image of a row that is not downloaded yet


@dataclass(frozen=True)
class Columns:
    """Which column holds what ("" = none), and whose layout that is."""

    layout: str
    url: str
    caption: str
    sha256: str
    uid: str


@dataclass(frozen=True)
class _Outside(Container[str]):
    """The rows that are known or have no number in a range."""

    numbers: range
    known: Container[str]

    def __contains__(self, key: object) -> bool:
        return int(str(key)) not in self.numbers or key in self.known


class UrlSource:
    """The rows of one table; their key is the row's number, from 0. Only what is on its way is held in memory."""

    notice = ""
    templates: tuple[str, ...] = ()
    classnames: tuple[str, ...] = ()
    downloads = True

    def __init__(self, config: IngestConfig, rows: Rows, column: str) -> None:
        """Find the columns and say whose layout it is; raise DataError for missing ones, or nothing to read."""
        self._config, self._rows = config, rows
        self._columns = _find_columns(rows, config, column)
        if not first_cells(rows, column):
            raise DataError("The table holds no URL", where=f"{rows.path}, column '{column}'", fix="Is it the right table?")
        wanted = (column, self._columns.caption, self._columns.sha256, self._columns.uid, *other_columns(rows, config))
        self._wanted = tuple(dict.fromkeys(name for name in wanted if name))
        known = {name: value for name, value in vars(self._columns).items() if value}
        get_logger().info("urls_found", **known)

    def total(self) -> int | None:
        """Number of rows, where the table says so."""
        return self._rows.total

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the rows whose key is not in `known`, those that had to be tried again after all others."""
        return self.fetch(known)

    def fetch(self, known: Container[str], attempt: int = 1) -> Iterator[RawSample | Rejected]:
        """Yield the same, where the attempts of the rows count from `attempt`."""
        with closing(download_in_order(self._jobs(known, attempt), DownloadLimits.of(self._config))) as done:
            for job, answer in done:
                yield _finished(job.payload, answer)

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield pieces of so many rows of the table, whether they are known or not; they go into one `fetch` together."""
        size, total = self._config.shard_samples, self._count()
        for start in range(0, total, size):
            numbers = range(start, min(start + size, total))
            new = sum(row_key(number) not in known for number in numbers)
            yield Piece(new, partial(self.fetch, _Outside(numbers, known)))

    def fingerprint(self) -> str:
        """That of the table."""
        return self._rows.fingerprint()

    def _count(self) -> int:
        """Number of the table's rows, `samples` at most."""
        total = self._rows.total
        if total is None:
            total = sum(1 for _ in self._rows.read(()))
        return min(total, self._config.samples) if self._config.samples else total

    def _jobs(self, known: Container[str], attempt: int = 1) -> Iterator[Job]:
        for row in self._rows.read(self._wanted):
            if self._config.samples and row.number >= self._config.samples:
                return
            key = row_key(row.number)
            if key not in known:
                yield replace(self._job(key, row), attempt=attempt)

    def _job(self, key: str, row: Row) -> Job:
        columns = self._columns
        address = row.cells.get(columns.url)
        url = address.strip() if isinstance(address, str) else ""
        try:
            if row.problem:
                raise BadRow("malformed_row", row.problem)
            if not url:
                raise BadRow("no_image", f"row {row.number}: column '{columns.url}' is empty")
            expected = (text_or_none(row.cells.get(columns.sha256)) or "").lower()
            return Job(self._sample(key, row, url), url, expected)
        except BadRow as error:
            return Job(Rejected(key, error.reason, error.detail, Fetch(url)), None)

    def _sample(self, key: str, row: Row, url: str) -> RawSample:
        """The sample without its image."""
        config, columns = self._config, self._columns
        texts = {name: cell_text(row.cells.get(name)) for name in self._wanted if name != columns.url}
        fields = {name: text for name, (text, _) in texts.items()}
        path = unquote(urlsplit(url).path).strip("/") if config.caption_template or config.class_field else ""
        extra: dict[str, Any] = {"url": url}
        if columns.caption:
            text, repaired = texts[columns.caption]
            caption = clean_caption(text)
            extra |= REPAIRED if repaired else {}
        else:
            caption = caption_from_path(config.caption_template, path.removesuffix(ending_of(path)) or "/")
        if uid := text_or_none(fields.get(columns.uid)):
            extra["uid"] = uid
        class_name, split = class_of(config.class_field, fields, path), split_of(config.split_field, fields)
        return RawSample(key, _NOTHING, caption, class_name, split, extra)


def _finished(payload: RawSample | Rejected, answer: Answer) -> RawSample | Rejected:
    if isinstance(payload, Rejected):
        return payload
    if isinstance(answer, Failed):
        return Rejected(payload.key, answer.reason, answer.detail, answer.fetch)
    assert isinstance(answer, Fetched)
    extra = payload.extra | {"source_sha256": answer.fetch.sha256}
    return replace(payload, load=answer.load, extra=extra, fetch=answer.fetch)


def _find_columns(rows: Rows, config: IngestConfig, url: str) -> Columns:
    lowered = {name.strip().lower(): name for name in reversed(rows.columns)}
    caption = ""
    if config.caption_template:
        check_template(config.caption_template)
    elif isinstance(rows, LineRows):
        raise DataError(
            "A list of URLs has no captions",
            where=str(rows.path),
            fix="Give a table with a column of captions, or set `caption_template`, e.g. '{words}', to make them from the URLs.",
        )
    else:
        caption = find_column(rows, config.caption_field, CAPTION_FIELDS, "caption")
    sha256 = lowered.get(config.sha256_field.strip().lower(), "")
    if config.sha256_field not in ("", "sha256") and not sha256:
        find_column(rows, config.sha256_field, (), "sha256")
    return Columns(_layout(rows, set(lowered)), url, caption, sha256, lowered.get("uid", ""))


def _layout(rows: Rows, names: set[str]) -> str:
    if isinstance(rows, LineRows):
        return "list of URLs"
    if rows.about.endswith("no header"):
        return "CC12M" if rows.columns[0] == "url" else "CC3M"
    if {"uid", "url", "text", "sha256"} <= names:
        return "DataComp"
    if {"url", "text"} <= names and not {"hash", "similarity", "pwatermark", "punsafe"}.isdisjoint(names):
        return "LAION"
    return "columns by name"
