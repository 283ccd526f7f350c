"""Names, classes and splits: what sources read beside pictures and captions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.captions import MISSING, BadRow

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)  # fmt: skip
PATH_CLASSES = ("{parent}", "{top}")

_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("heldout", "held-out", "held_out", "test", "testing", "eval"), "heldout"),
}


def ending_of(name: str) -> str:
    """Return what follows the last dot, in lower case and with the dot; "" where there is none."""
    return PurePosixPath(name).suffix.lower()


def wanted(name: str) -> bool:
    """Whether a file or folder name is neither hidden nor the litter of some system."""
    return not name.startswith(".") and name not in _JUNK


def display(name: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def parse_fields(text: str, name: str) -> dict[str, Any]:
    """Parse the .json of a sample; raise BadRow."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("caption_field", f"{name} is no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRow("caption_field", f"{name} holds no object with keys but {type(value).__name__}")
    return value


def wants_fields(config: IngestConfig) -> bool:
    """Whether a setting names a field of the samples' metadata."""
    return bool(config.caption_field or config.split_field or (config.class_field and config.class_field not in PATH_CLASSES))


def class_of(field: str, fields: Mapping[str, Any], path: str = "") -> str | None:
    """Return the class: the value of `field`, or the name of the folder ({parent}) or outermost folder ({top}) of `path`."""
    if field not in PATH_CLASSES:
        return text_or_none(fields.get(field)) if field else None
    folders = PurePosixPath(path).parts[:-1]
    if not folders:
        return None
    return folders[-1 if field == "{parent}" else 0].replace("_", " ").strip() or None


def split_of(field: str, fields: Mapping[str, Any]) -> str | None:
    """Return the split by the project's name (train, validation, heldout), None where none is given; raise BadRow."""
    given = text_or_none(fields.get(field)) if field else None
    if given is None:
        return None
    if given.lower() not in _SPLITS:
        raise BadRow("split", f"{field} is {given[:40]!r}, not train, validation or heldout (val and test are understood too)")
    return _SPLITS[given.lower()]


def text_or_none(value: Any) -> str | None:
    """Return a cell as text; None for what is missing (null, NaN, empty, the word "None"). 3.0 gives "3"."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text in MISSING else text
