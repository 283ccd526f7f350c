"""WinoGAViL as it is published: cues, candidate pictures, and which of them people associate with the cue.

    <dataset>/winogavil_dataset.csv    columns cue, candidates and associations, the last two as JSON lists of picture names
    <dataset>/winogavil_images.zip     <any folder>/<picture name>.jpg

Source: huggingface.co/datasets/nlphuji/winogavil. The prompt is that of DataComp's eval_utils/wino_eval.py: "A cue" or "An cue".
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from drrho_clip.data.sources.base import Held
from drrho_clip.errors import DataError
from drrho_clip.evaluation.suite.config import SuiteTask
from drrho_clip.evaluation.suite.published import IMAGES, find_folder
from drrho_clip.storage import Store

TABLE = "winogavil_dataset.csv"
PICTURES = "winogavil_images.zip"
COLUMNS = ("cue", "candidates", "associations")


@dataclass(frozen=True)
class Cue:
    """One instance: pictures by name, some of which are associated with the cue."""

    cue: str
    candidates: tuple[str, ...]
    associations: frozenset[str]

    @property
    def prompt(self) -> str:
        """The cue as the model gets it."""
        cue = self.cue.lower()
        return f"{'An' if cue[0] in 'aeiou' else 'A'} {cue}"


@dataclass(frozen=True)
class Picture:
    """One picture: its name for messages, and its bytes."""

    where: str
    load: Held = field(repr=False)


@dataclass(frozen=True)
class Associations:
    """The published files."""

    store: Store
    type: str = "association"

    @property
    def uri(self) -> str:
        """Where they lie."""
        return self.store.uri

    def identity(self) -> str:
        """Hash of everything that a score depends on."""
        infos = [self.store.head(name) for name in (TABLE, PICTURES)]
        return hashlib.sha256(json.dumps([info and (info.key, info.size, info.etag) for info in infos]).encode()).hexdigest()

    def cues(self, task: SuiteTask) -> list[Cue]:
        """The instances with at least `task.min_candidates` candidates; DataError where a row cannot be understood."""
        where = self.store.uri_of(TABLE)
        rows = csv.DictReader(io.StringIO(self.store.read(TABLE).decode("utf-8", "replace")))
        absent = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if absent:
            raise DataError(
                f"There is no column {' and '.join(absent)}", where=where, fix=f"Columns needed: {', '.join(COLUMNS)}."
            )
        cues = [_cue(row, f"{where}, row {number}") for number, row in enumerate(rows, 1)]
        chosen = [cue for cue in cues if len(cue.candidates) >= task.min_candidates]
        if not chosen:
            raise DataError(f"No cue has {task.min_candidates} candidate pictures", where=where, fix="Lower `min_candidates`.")
        return chosen

    def pictures(self, names: list[str]) -> Iterator[Picture]:
        """Yield the pictures of these names, in order."""
        where = self.store.uri_of(PICTURES)
        with self._archive() as archive:
            members = {PurePosixPath(name).stem: name for name in archive.namelist() if name.lower().endswith(IMAGES)}
            for name in names:
                if name not in members:
                    raise DataError(f"There is no picture '{name}'", where=where, fix="Fetch the archive again.")
                yield Picture(f"{where}: {members[name]}", Held(archive.read(members[name])))

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        uri = self.store.uri_of(PICTURES)
        with tempfile.TemporaryDirectory(prefix="drrho-pictures-") as folder:
            path = Path(uri)
            if "://" in uri:
                path = Path(folder) / PICTURES
                self.store.download(PICTURES, path)
            try:
                with zipfile.ZipFile(path) as archive:
                    yield archive
            except zipfile.BadZipFile as error:
                raise DataError(
                    f"The archive cannot be read: {error}", where=uri, fix="Fetch it again; it may be cut short."
                ) from None


def open_associations(data: str, folder: str) -> Associations | None:
    """Open WinoGAViL below `data` (or at its own URI); None where nothing is there, DataError where a file is missing."""
    root = find_folder(data, folder)
    if root is None:
        return None
    absent = [name for name in (TABLE, PICTURES) if root.head(name) is None]
    if absent:
        raise DataError(f"There is no {' and no '.join(absent)}", where=root.uri, fix="Fetch both files as they are published.")
    return Associations(root)


def _cue(row: dict[str, str], where: str) -> Cue:
    cue = (row["cue"] or "").strip()
    candidates, associations = _names(row["candidates"], where), _names(row["associations"], where)
    if not cue or not associations or not set(associations) <= set(candidates):
        raise DataError("A cue needs candidates, and some of them as its associations", where=where)
    return Cue(cue, candidates, frozenset(associations))


def _names(text: str | None, where: str) -> tuple[str, ...]:
    """A list of names as JSON, or in Python's own notation."""
    try:
        try:
            names = json.loads(text or "")
        except ValueError:
            names = ast.literal_eval(text or "")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        names = None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{(text or '')[:60]!r} is no list of picture names", where=where)
    return tuple(names)
