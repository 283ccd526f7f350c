"""Captions from bytes, cells and paths, by one declared rule.

Bytes are read as UTF-8 (or UTF-16 where a byte order mark says so). What is not valid is taken as Windows-1252, the usual
culprit, and marked as repaired; what is not valid there either is rejected. Control characters and runs of spaces become one
space.
"""

from __future__ import annotations

import codecs
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from drrho_clip.data.sources.base import Rejected
from drrho_clip.errors import ConfigError, nearest

CAPTION_FIELDS = ("caption", "text", "title")
PATH_PLACEHOLDERS = ("stem", "parent", "path", "words")
MISSING = frozenset(("", "nan", "NaN", "None", "none", "null", "NULL", "<NA>", "N/A"))  # what programs write for a missing value
REPAIRED = {"caption_repaired": "windows-1252"}  # what the .json of a repaired sample says

_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_SEPARATORS = re.compile(r"[\s_\-+.,;()\[\]{}]+")


class BadRow(Exception):
    """A row that cannot be used: `reason` is one of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def rejected(self, key: str) -> Rejected:
        """Say so of the row `key`."""
        return Rejected(key, self.reason, self.detail)


def clean_caption(text: object) -> str:
    """Return the caption in one line; raise BadRow where there is none (null, NaN, or a word for them)."""
    if text is None or text != text:
        raise BadRow("no_caption", "the value is missing")
    if not isinstance(text, str):
        raise BadRow("caption_field", f"expected text, found {type(text).__name__}")
    cleaned = _SPACE.sub(" ", text).strip()
    if not cleaned:
        raise BadRow("empty_caption", f"{text[:40]!r} holds nothing to read")
    if cleaned in MISSING:
        raise BadRow("no_caption", f"{cleaned!r} stands for a missing value")
    if not cleaned.isascii() and any(0xD800 <= ord(character) < 0xE000 for character in cleaned):
        raise BadRow("caption_encoding", f"{cleaned[:40]!r} holds half a character")
    return cleaned


def decode_text(data: bytes) -> tuple[str, bool]:
    """Return (text, whether it had to be repaired); raise BadRow."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig"), False
    except UnicodeDecodeError as error:
        position = error.start
    try:
        return data.decode("cp1252"), True
    except UnicodeDecodeError:
        found = data[position : position + 4]
        raise BadRow("caption_encoding", f"neither UTF-8 nor Windows-1252 at byte {position}: {found!r}") from None


def cell_text(cell: Any) -> tuple[Any, bool]:
    """Return (cell, whether it was repaired): bytes and escaped bytes are decoded by the rule of `decode_text`."""
    if isinstance(cell, str) and not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
        cell = cell.encode("utf-8", "surrogateescape")
    return decode_text(cell) if isinstance(cell, bytes) else (cell, False)


def json_caption(value: Mapping[str, Any], field: str) -> str:
    """Return the caption of a .json: its key `field`, or the first of CAPTION_FIELDS it has; raise BadRow."""
    names = (field,) if field else CAPTION_FIELDS
    for name in names:
        if name in value:
            return clean_caption(value[name])
    raise BadRow("no_caption", f"no key {' or '.join(names)} among {', '.join(map(str, value)) or 'none'}")


def check_template(template: str, placeholders: tuple[str, ...] = PATH_PLACEHOLDERS) -> None:
    """Raise ConfigError unless `template` has at least one placeholder and only those of `placeholders`."""
    fix = "It takes " + ", ".join(f"{{{name}}}" for name in placeholders) + "."
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"caption_template {template!r} is malformed: {error}", fix=fix) from None
    unknown = [name for name in names if name not in placeholders]
    if unknown:
        raise ConfigError(f"caption_template has the unknown placeholder {{{unknown[0]}}}", fix=nearest(unknown[0], placeholders))
    if not names:
        raise ConfigError(f"caption_template {template!r} would give every image the same caption", fix=fix)


def caption_from_path(template: str, path: str) -> str:
    """Fill `template` from the relative path without its ending, cleaned for humans (`_`, `-`, `.` and brackets become spaces).

    {stem}: the file's name; {parent}: its folder's name; {path}: folders and name, outermost first; {words}: name and folders,
    innermost first, without numbers and each word once: "animals/birds/owl_01" gives "owl birds animals". Raises BadRow.
    """
    parts = [_SEPARATORS.sub(" ", part).strip() for part in PurePosixPath(path).parts]
    filled = template.format(
        stem=parts[-1], parent=parts[-2] if len(parts) > 1 else "", path=" ".join(parts), words=" ".join(_words(parts))
    )
    return clean_caption(filled)


def _words(parts: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    for word in " ".join(reversed(parts)).split():
        if not word.isdecimal() and word.lower() not in seen:
            seen.add(word.lower())
            yield word
