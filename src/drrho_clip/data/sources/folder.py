"""Images in a folder, each with a caption in a .txt or .json beside it, or made from its path."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import looks_like_image
from drrho_clip.data.sources.base import RawSample, Rejected
from drrho_clip.data.sources.captions import (
    REPAIRED,
    BadCaption,
    caption_from_path,
    check_template,
    clean_caption,
    decode_text,
    json_caption,
)
from drrho_clip.data.sources.order import seeded_order
from drrho_clip.errors import DataError

IMAGE_ENDINGS = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
    ),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
)
_CAPTION_ENDINGS = (".txt", ".json")
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")


class FolderSource:
    """All images below a folder; the key of a sample is its relative path without the ending (with it where two are equal)."""

    notice = ""
    templates: tuple[str, ...] = ()
    classnames: tuple[str, ...] = ()

    def __init__(self, config: IngestConfig) -> None:
        """List the folder; raise ConfigError for a wrong template, DataError (naming what was found) where nothing fits."""
        if config.caption_template:
            check_template(config.caption_template)
        self._config = config
        self._root = Path(config.path).expanduser()
        if not self._root.is_dir():
            what = "is a file, not a folder" if self._root.exists() else "does not exist"
            raise DataError(f"The folder {what}", where=str(self._root), fix="Set `path` to the folder that holds the images.")
        files = sorted(_list_files(self._root))
        images = [name for name in files if _is_image(self._root, name)]
        self._captions = {name for name in files if name.lower().endswith(_CAPTION_ENDINGS)}
        if not images:
            raise DataError(
                f"No image found, only {_endings(files)}",
                where=str(self._root),
                fix="Set `path` to the folder that holds the images.",
            )
        self._images = _keys(images)
        if not config.caption_template and not any(map(self._caption_file, images)):
            raise DataError(
                f"None of {len(images)} images has a caption: found {_endings(files)}",
                where=str(self._root),
                fix="Put a .txt or .json of the same name beside each image, or set `caption_template`, e.g. '{words}'.",
            )

    def total(self) -> int | None:
        """Number of images."""
        return len(self._images)

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the images whose key is not in `known`, in a seeded hash order of the keys."""
        for key in seeded_order(self._images, self._config.seed, known):
            name = self._images[key]
            try:
                yield self._sample(key, name)
            except BadCaption as error:
                yield error.rejected(key)
            except OSError as error:
                yield Rejected(key, "unreadable", f"{error.filename}: {error.strerror}")

    def _sample(self, key: str, name: str) -> RawSample:
        config = self._config
        stem = _without_ending(name)
        fields: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        caption_file = self._caption_file(name)
        if caption_file:
            text, repaired = decode_text((self._root / caption_file).read_bytes())
            extra = REPAIRED if repaired else {}
            if caption_file.lower().endswith(".json"):
                fields = _parse(text, caption_file)
        if config.caption_template:
            caption = caption_from_path(config.caption_template, display(stem))
        elif caption_file is None:
            raise BadCaption("no_caption", "no .txt or .json beside the image")
        elif caption_file.lower().endswith(".json"):
            caption = json_caption(fields, config.caption_field)
        else:
            caption = clean_caption(text)
        return RawSample(
            key=key,
            load=partial(_read, self._root / name),
            caption=caption,
            class_name=_class_name(config.class_field, fields, display(stem)),
            split=text_or_none(fields.get(config.split_field)) if config.split_field else None,
            extra=extra,
        )

    def _caption_file(self, name: str) -> str | None:
        """Find `cat.txt` or `cat.json` beside `cat.jpg` (also `cat.jpg.txt`); the .json first where its keys are asked for."""
        wants_fields = self._config.caption_field or self._config.class_field or self._config.split_field
        endings = reversed(_CAPTION_ENDINGS) if wants_fields else iter(_CAPTION_ENDINGS)
        for ending in endings:
            for candidate in (_without_ending(name) + ending, name + ending):
                if candidate in self._captions:
                    return candidate
        return None


def display(name: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def text_or_none(value: Any) -> str | None:
    """Return a class name or split as text; None for what is missing (null, NaN, empty)."""
    if value is None or value != value:
        return None
    return str(value).strip() or None


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _list_files(root: Path) -> Iterator[str]:
    """Yield the relative paths below `root`, through links but each folder once; hidden files and system litter are left out."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if _wanted(name))
        for name in filter(_wanted, names):
            yield (Path(folder) / name).relative_to(root).as_posix()


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name not in _JUNK


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _without_ending(name: str) -> str:
    """Cut a known image ending and nothing else: `cat v2.0` has none."""
    ending = _ending(name)
    return name[: -len(ending)] if ending in IMAGE_ENDINGS else name


def _is_image(root: Path, name: str) -> bool:
    ending = _ending(name)
    if ending in IMAGE_ENDINGS or ending in _CAPTION_ENDINGS:
        return ending in IMAGE_ENDINGS
    try:
        with open(root / name, "rb") as file:
            return looks_like_image(file.read(16))
    except OSError:
        return False


def _keys(images: list[str]) -> dict[str, str]:
    """Map keys to relative paths."""
    stems = Counter(map(_without_ending, images))
    return {display(_without_ending(name) if stems[_without_ending(name)] == 1 else name): name for name in images}


def _endings(files: list[str]) -> str:
    counts = Counter(_ending(name) or "files without an ending" for name in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(8)) or "nothing"


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadCaption("caption_field", f"{name} is no valid JSON: {error}") from None


def _class_name(field: str, fields: dict[str, Any], path: str) -> str | None:
    """Look the class up in the .json, or take the name of the folder ({parent}) or of the outermost folder ({top})."""
    parts = PurePosixPath(path).parts
    if field in ("{parent}", "{top}"):
        folder = parts[-2 if field == "{parent}" else 0] if len(parts) > 1 else ""
        return folder.replace("_", " ").strip() or None
    return text_or_none(fields.get(field)) if field and isinstance(fields, dict) else None
