"""What every source gives: raw samples, or the reason why one cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from drrho_clip.data.download.reasons import FETCH_REASONS
from drrho_clip.data.images import IMAGE_REASONS
from drrho_clip.data.tar_index import Member

DUPLICATES = ("duplicate_content", "duplicate_look")  # of an earlier sample, and dropped by choice
LEFT_OUT = "left_out"  # by `caption_noise_part: clean`; nothing is wrong with it
NOT_DOWNLOADED = "not_downloaded"  # by img2dataset, which made the tars
REASONS = (
    *IMAGE_REASONS,
    *FETCH_REASONS,
    *DUPLICATES,
    NOT_DOWNLOADED,
    "no_image",  # a caption without a picture
    "no_caption",  # a picture without a caption, or a null one
    "empty_caption",  # only spaces and control characters
    "caption_encoding",  # neither UTF-8 nor Windows-1252
    "caption_field",  # the caption file or cell is not of the expected form
    "unreadable",  # the picture's file is not there or cannot be read
    "not_paired",  # a name from which no pair can be told
    "malformed_row",  # more cells than columns
    "split",  # a split of an unknown name
    "uid",  # no uid, where a list of uids says what is kept
)

CLASSES = {
    "decode": ("not_an_image", "truncated", "decode"),
    "size": ("too_small", "too_many_pixels", "aspect_ratio"),
    "caption": ("no_caption", "empty_caption", "caption_encoding", "caption_field"),
    "missing": ("unreadable", "no_image"),
    "row": ("not_paired", "malformed_row", "split", "uid"),
    "download": (*FETCH_REASONS, NOT_DOWNLOADED),
    "duplicate": DUPLICATES,
}
"""All reasons, by the class that a metric shows (`observe.metrics.SKIPPED`)."""


def reason_class(reason: str) -> str:
    """The class of one of `REASONS`."""
    return next(name for name, members in CLASSES.items() if reason in members)


@dataclass(frozen=True)
class Fetch:
    """How a row was downloaded: its URL, the last HTTP status (0 = no answer), attempts, sha256 of the bytes ("" = none)."""

    url: str
    status: int = 0
    attempts: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Place:
    """Where a sample lies that is adopted: the number of its tar in the source, and those of its members that are used."""

    tar: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class RawSample:
    """One image-text pair as the source has it; `load` gives the encoded image when it is needed (and can be pickled)."""

    key: str
    load: Callable[[], bytes]
    caption: str
    class_name: str | None = None
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    fetch: Fetch | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Held:
    """A `load` for bytes that are at hand."""

    data: bytes

    def __call__(self) -> bytes:
        """Return the bytes."""
        return self.data


@dataclass(frozen=True)
class Slice:
    """A `load` for a part of a local file."""

    path: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Read the part; OSError if the file has become shorter."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"{self.path} ends before byte {self.offset + self.size}")
        return data


@dataclass(frozen=True)
class Rejected:
    """A row that gave no sample: a reason from a closed list (`REASONS`) and what exactly was wrong."""

    key: str
    reason: str
    detail: str
    fetch: Fetch | None = None


@dataclass(frozen=True)
class Piece:
    """Rows that lie next to each other in the order of a source; nothing of them is read before `read` is called."""

    rows: int | None  # how many; None = known only once they are read
    read: Callable[[], Iterator[RawSample | Rejected]]
    note: Callable[[], dict[str, Any]] = dict  # asked once they are read: what only they tell, in plain values


class Source(Protocol):
    """Where image-text data comes from."""

    notice: str  # credit and licence to show wherever its pictures are shown; "" = none known
    classnames: tuple[str, ...]  # in label order where the source has classes, else empty
    templates: tuple[str, ...]  # prompts for zero-shot classification, with {} for the class name; empty = the defaults
    downloads: bool  # whether each row is fetched from the network: what became of it is then kept, and keys are row numbers

    def total(self) -> int | None:
        """Number of rows where it is known before reading."""

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the samples whose key is not in `known`, in an order that depends on keys and seed alone."""

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the same samples in pieces that can be read apart, cut where the source and `known` alone say."""

    def fingerprint(self) -> str:
        """What two processes must have in common to see the same rows: it changes when the rows do."""
