"""Datasets as CLIP_benchmark and DataComp publish them, read where they lie: a folder or s3://.

    <dataset>/test/0.tar, 1.tar, ...                   members <key>.jpg|jpeg|png|webp, and beside them of the same key:
                                                       .cls the class number; .txt captions, one a line; .json; .npy numbers
    <dataset>/test/nshards.txt                         number of tars; optional here
    <dataset>/dataset_type.txt                         classification (also where it is missing) or retrieval
    <dataset>/classnames.txt                           one a line, in the order of the class numbers
    <dataset>/zeroshot_classification_templates.txt    one prompt a line, {c} where the class name goes

Source: LAION-AI/CLIP_benchmark, clip_benchmark/datasets/builder.py, build_wds_dataset; mlfoundations/datacomp, eval_utils/.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drrho_clip.data.sources.base import Held, Slice
from drrho_clip.data.sources.captions import BadRow, decode_text
from drrho_clip.data.sources.locate import Tar
from drrho_clip.data.sources.tars import Member, index_tar
from drrho_clip.errors import DataError, ObjectMissing
from drrho_clip.evaluation.classes import ClassList
from drrho_clip.storage import ObjectInfo, Store, open_store

IMAGES = ("jpg", "jpeg", "png", "webp")
SPLIT = "test"
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"


@dataclass(frozen=True)
class PublishedSample:
    """One sample: its name for messages, its image still encoded, and its other members by ending."""

    where: str
    load: Slice | Held
    parts: dict[str, bytes] = field(repr=False)

    def label(self, classes: int) -> int:
        """Its class number, below `classes`."""
        text = self._text("cls")
        if not (text.isascii() and text.isdecimal()):
            raise DataError(f"'{text[:40]}' is no class number", where=f"{self.where}.cls", fix="Write a number from 0 on.")
        if int(text) >= classes:
            raise DataError(
                f"Class {int(text)} has no name: {CLASSNAMES} holds {classes}",
                where=f"{self.where}.cls",
                fix=f"Give {CLASSNAMES} one line for each class, in the order of their numbers.",
            )
        return int(text)

    def captions(self) -> list[str]:
        """Its captions: the lines of its .txt, or `captions` or `caption` of its .json."""
        if "txt" in self.parts or "json" not in self.parts:
            lines = self._text("txt").splitlines()
        else:
            fields = self._json()
            found = fields.get("captions", fields.get("caption", []))
            lines = [found] if isinstance(found, str) else [line for line in found if isinstance(line, str)]
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            raise DataError("The sample has no captions", where=self.where, fix="Write them into its .txt, one a line.")
        return captions

    def group(self, name: str) -> str:
        """Its group: the column `name` of its .npy where that is a number, else the value of `name` in its .json."""
        if name.isdecimal():
            row = self._numbers()
            if int(name) >= len(row):
                raise DataError(f"The .npy has {len(row)} numbers, none of column {name}", where=self.where)
            return f"{row[int(name)]:g}"
        fields = self._json()
        if fields.get(name) in (None, ""):
            raise DataError(
                f"The .json has no '{name}' to group by", where=self.where, fix="Set the task's `group` to a key of it."
            )
        return str(fields[name])

    def _text(self, ending: str) -> str:
        try:
            return decode_text(self._part(ending))[0].strip()
        except BadRow as error:
            raise DataError(f"The .{ending} is no text: {error.detail}", where=self.where) from None

    def _json(self) -> dict[str, Any]:
        try:
            fields = json.loads(self._part("json"))
        except ValueError as error:
            raise DataError(f"The .json cannot be read: {error}", where=self.where) from None
        return fields if isinstance(fields, dict) else {}

    def _numbers(self) -> list[float]:
        try:
            return [float(number) for number in np.load(io.BytesIO(self._part("npy")), allow_pickle=False).ravel()]
        except (ValueError, TypeError, EOFError) as error:
            raise DataError(f"The .npy cannot be read: {error}", where=self.where) from None

    def _part(self, ending: str) -> bytes:
        if ending not in self.parts:
            found = ", ".join(f".{name}" for name in sorted(self.parts)) or "nothing"
            raise DataError(f"The sample has no .{ending}, only an image and {found}", where=self.where)
        return self.parts[ending]


@dataclass(frozen=True)
class Published:
    """One published dataset: where it lies, its tars, and what its dataset_type.txt says."""

    store: Store
    tars: tuple[ObjectInfo, ...]
    type: str

    @property
    def uri(self) -> str:
        """Where it lies."""
        return self.store.uri

    def identity(self) -> str:
        """Hash of everything that a score depends on: the tars by name, size and ETag, and the text files."""
        names = [(info.key, info.size, info.etag) for info in self.tars]
        texts = [_text_or_none(self.store, name) for name in (CLASSNAMES, TEMPLATES)]
        return hashlib.sha256(json.dumps([names, texts, self.type]).encode()).hexdigest()

    def classes(self, *, duplicates: bool) -> ClassList:
        """Its class names and prompts; DataError where one is missing, blank or (where no `duplicates` are expected) double."""
        names = [line.strip() for line in self._lines(CLASSNAMES, "one class name a line, in the order of the class numbers")]
        where = self.store.uri_of(CLASSNAMES)
        blank = [number for number, name in enumerate(names, 1) if not name]
        if blank:
            raise DataError(
                f"Line {blank[0]} is blank", where=where, fix="Every class needs a name; remove blank lines at the end."
            )
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated and not duplicates:
            raise DataError(
                f"{', '.join(repr(name) for name in repeated[:3])} given more than once",
                where=where,
                fix="Name the classes differently, or set the task's `duplicate_classnames` if it is published so.",
            )
        lines = self._lines(TEMPLATES, "one prompt a line, with {c} where the class name goes")
        checked = ClassList.parse(
            {"classnames": ("checked above",), "templates": [line.strip().replace("{c}", "{}") for line in lines]},
            where=self.store.uri_of(TEMPLATES),
        )
        return ClassList.model_construct(classnames=tuple(names), templates=checked.templates)

    def samples(self) -> Iterator[PublishedSample]:
        """Yield every sample, tar by tar; DataError where a tar is cut short, or a sample has no image or several."""
        for info in self.tars:
            tar = _tar(self.store, info)
            with tar.on_disk() as path:
                groups = _groups(index_tar(path, tar.name, lambda members: len(_groups(members))))
                for key, members in groups.items():
                    yield _sample(f"{tar.name}: {key}", path, members, held=tar.fetch is not None)

    def _lines(self, name: str, content: str) -> list[str]:
        text = _text_or_none(self.store, name)
        if text is None or not text.strip():
            raise DataError(
                f"There is no {name}" if text is None else f"{name} is empty", where=self.uri, fix=f"It holds {content}."
            )
        return text.splitlines()


def open_published(data: str, folder: str) -> Published | None:
    """Open the dataset `folder` below `data` (or at its own URI); None where nothing is there.

    As published it may also be called wds_<folder>_test or wds_<folder>, with a dash for each slash. DataError where it has no
    tars, or fewer than its nshards.txt says.
    """
    root = find_folder(data, folder)
    if root is None:
        return None
    tars = tuple(info for info in root.list(f"{SPLIT}/") if info.key.endswith(".tar"))
    if not tars:
        raise DataError(f"The dataset has no {SPLIT}/*.tar", where=root.uri, fix="Fetch its tars, or correct the task's `path`.")
    said = (_text_or_none(root, f"{SPLIT}/nshards.txt") or "").strip()
    if said and said != str(len(tars)):
        raise DataError(
            f"nshards.txt says {said[:20]} tars, {len(tars)} are there",
            where=root.uri_of(SPLIT),
            fix="Fetch the others, or correct it.",
        )
    return Published(root, tars, (_text_or_none(root, TYPE) or "classification").strip().lower())


def find_folder(data: str, folder: str) -> Store | None:
    """The store of the dataset `folder` below `data`, under any of the names that it is published by."""
    if "://" in folder or folder.startswith("/"):
        choices = [folder]
    else:
        dashed = folder.replace("/", "-")
        choices = [f"{data.rstrip('/')}/{name}" for name in (folder, f"wds_{dashed}_test", f"wds_{dashed}")]
    stores = (open_store(uri) for uri in choices)
    return next((store for store in stores if next(store.list(), None) is not None), None)


def _tar(store: Store, info: ObjectInfo) -> Tar:
    uri = store.uri_of(info.key)
    return Tar(uri, fetch=partial(store.download, info.key, etag=info.etag)) if "://" in uri else Tar(uri, path=Path(uri))


def _groups(members: list[Member]) -> dict[str, dict[str, Member]]:
    """Members by key (the name up to the first dot after the last slash) and ending, as webdataset groups them."""
    groups: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if stem:
            groups[folder + slash + stem][ending.lower()] = member
    return groups


def _sample(where: str, path: Path, members: dict[str, Member], *, held: bool) -> PublishedSample:
    def part(member: Member) -> Slice:
        return Slice(path, member.offset, member.size)

    images = [members[ending] for ending in IMAGES if ending in members]
    if len(images) != 1:
        found = ", ".join(f".{ending}" for ending in sorted(members))
        raise DataError(
            f"The sample has {'no image' if not images else 'more than one image'}: {found}",
            where=where,
            fix=f"Each needs one of {', '.join('.' + ending for ending in IMAGES)}.",
        )
    load = part(images[0])
    parts = {ending: part(member)() for ending, member in members.items() if ending not in IMAGES}
    return PublishedSample(where, Held(load()) if held else load, parts)  # a fetched tar is gone by the time that others load


def _text_or_none(store: Store, name: str) -> str | None:
    try:
        return decode_text(store.read(name))[0]
    except ObjectMissing:
        return None
    except BadRow as error:
        raise DataError(f"{name} is no text: {error.detail}", where=store.uri_of(name)) from None
