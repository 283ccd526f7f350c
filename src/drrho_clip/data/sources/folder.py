"""Images in a folder, each with a caption in a .txt or .json beside it, or made from its path."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import looks_like_image
from drrho_clip.data.sources.base import Piece, RawSample, Rejected
from drrho_clip.data.sources.captions import (
    REPAIRED,
    BadRow,
    caption_from_path,
    check_template,
    clean_caption,
    decode_text,
    json_caption,
)
from drrho_clip.data.sources.fields import (
    IMAGE_ENDINGS,
    PATH_CLASSES,
    class_of,
    display,
    ending_of,
    parse_fields,
    split_of,
    wanted,
    wants_fields,
)
from drrho_clip.data.sources.order import cut, fingerprint_of, joined, seeded_order
from drrho_clip.errors import DataError

_TEXT_ENDINGS = (".txt", ".json")


class FolderSource:
    """All images below a folder; the key of a sample is its relative path without the ending (with it where two are equal)."""

    notice = ""
    templates: tuple[str, ...] = ()
    classnames: tuple[str, ...] = ()
    downloads = False

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
        self._texts = {
            name[: -len(ending_of(name))] + ending_of(name): name for name in files if ending_of(name) in _TEXT_ENDINGS
        }
        if not images:
            raise DataError(
                f"No image found, only {_endings(files)}",
                where=str(self._root),
                fix="Set `path` to the folder that holds the images.",
            )
        self._images = _keys(images)
        if config.class_field in PATH_CLASSES:
            self.classnames = tuple(sorted({name for path in self._images if (name := class_of(config.class_field, {}, path))}))
        if not config.caption_template and not any(self._beside(name, ending) for name in images for ending in _TEXT_ENDINGS):
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
        return joined(self.pieces(known))

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the same in pieces."""
        return cut(seeded_order(self._images, self._config.seed, known), self._config.shard_samples, self._read)

    def fingerprint(self) -> str:
        """The names of images and texts."""
        return fingerprint_of((*self._images.values(), *sorted(self._texts.values())))

    def _read(self, keys: Iterable[str]) -> Iterator[RawSample | Rejected]:
        for key in keys:
            name = self._images[key]
            try:
                yield self._sample(key, name)
            except BadRow as error:
                yield error.rejected(key)
            except OSError as error:
                yield Rejected(key, "unreadable", f"{error.filename}: {error.strerror}")

    def _sample(self, key: str, name: str) -> RawSample:
        config = self._config
        path = display(_without_ending(name))
        text_file, json_file = self._beside(name, ".txt"), self._beside(name, ".json")
        fields: dict[str, Any] = {}
        repaired = False
        if json_file and (wants_fields(self._config) or not text_file):
            text, repaired = decode_text((self._root / json_file).read_bytes())
            fields = parse_fields(text, json_file)
        if config.caption_template:
            caption = caption_from_path(config.caption_template, path)
        elif text_file and not config.caption_field:
            text, repaired = decode_text((self._root / text_file).read_bytes())
            caption = clean_caption(text)
        elif json_file:
            caption = json_caption(fields, config.caption_field)
        else:
            raise BadRow("no_caption", f"no {'.json' if config.caption_field else '.txt or .json'} beside the image")
        return RawSample(
            key=key,
            load=(self._root / name).read_bytes,
            caption=caption,
            class_name=class_of(config.class_field, fields, path),
            split=split_of(config.split_field, fields),
            extra=dict(REPAIRED) if repaired else {},
        )

    def _beside(self, name: str, ending: str) -> str | None:
        """Find `cat.txt` beside `cat.jpg`, also `cat.jpg.txt` or `cat.TXT`."""
        return self._texts.get(_without_ending(name) + ending) or self._texts.get(name + ending)


def _list_files(root: Path) -> Iterator[str]:
    """Yield the relative paths below `root`, through links but each folder once; hidden files and system litter are left out."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if wanted(name))
        for name in filter(wanted, names):
            yield (Path(folder) / name).relative_to(root).as_posix()


def _without_ending(name: str) -> str:
    """Cut a known image ending and nothing else: `cat v2.0` has none."""
    ending = ending_of(name)
    return name[: -len(ending)] if ending in IMAGE_ENDINGS else name


def _is_image(root: Path, name: str) -> bool:
    ending = ending_of(name)
    if ending in IMAGE_ENDINGS or ending in _TEXT_ENDINGS:
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
    counts = Counter(ending_of(name) or "files without an ending" for name in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(8)) or "nothing"
