"""The page of a study: claims, tables that sort, plots; one self-contained file whose only script is the sorting."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from drrho_clip.report.page import templates
from drrho_clip.report.plots import FRAME, Plot


@dataclass(frozen=True)
class StudyColumn:
    """A heading, and what it means in one sentence."""

    heading: str
    definition: str


@dataclass(frozen=True)
class StudyCell:
    """What one cell shows, a second line below it, and the number that it is sorted by."""

    text: str
    sort: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class StudyRow:
    """A row with its name, what is said below that, and an address relative to the page."""

    label: str
    cells: Sequence[StudyCell]
    detail: str = ""
    link: str = ""
    is_reference: bool = False


@dataclass(frozen=True)
class StudyTable:
    """A table that sorts by each of its columns; `first` is the heading of the rows' names."""

    caption: str
    first: str
    columns: Sequence[StudyColumn]
    rows: Sequence[StudyRow]


@dataclass(frozen=True)
class StudyPage:
    """Everything that the template shows; strings are plain text."""

    title: str
    lead: str
    claims: Sequence[str]
    table: StudyTable
    table_note: str
    plots: Sequence[Plot]
    more: Sequence[StudyTable]
    runs: StudyTable
    facts: Sequence[tuple[str, str]]
    labels: Sequence[str]
    same: Sequence[tuple[str, str]]
    different: Sequence[tuple[str, Sequence[str]]]
    notes: Sequence[str]
    sources: Sequence[str]
    versions: Mapping[str, str]
    written: datetime


def render_study(page: StudyPage) -> str:
    """Return the page as HTML. Its policy allows no script but the one inside, by its hash."""
    script = files("drrho_clip.report").joinpath("templates/sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = templates().get_template("study.html.j2")
    return template.render(page=page, frame=FRAME, script=script, script_hash=f"sha256-{digest}")
