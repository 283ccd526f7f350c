"""An ingest shared by groups: each prepares pieces of the source, and the one that publishes puts their rows into the shards.

Where a shard ends depends on all rows before it, so no group can write one; what takes long (downloads, decoding) is the same for
a row wherever it is done. Pieces are cut by the rows alone, so that the number of groups may change from one run to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.parts import PartFile, Parts, PartsGone, Result
from drrho_clip.data.prepare import Row, prepare_all, with_split
from drrho_clip.data.sources import RawSample, Rejected, Source
from drrho_clip.data.sources.base import Piece
from drrho_clip.data.sources.shards import ShardsSource
from drrho_clip.data.tally import Tally
from drrho_clip.errors import ConfigError
from drrho_clip.observe import get_logger, progress

if TYPE_CHECKING:
    from collections.abc import Collection

Place = tuple[int, int]  # round of attempts (from 1) and piece (from 0): what the order of a source sorts its rows by
Raw = RawSample | Rejected
T = TypeVar("T")


@dataclass(frozen=True)
class GroupDone:
    """What one group has done: pieces of the source, their rows, and how many of these gave a sample."""

    pieces: int
    rows: int
    samples: int


class GroupWork:
    """One group's part of an ingest of the rows that are not `known`."""

    def __init__(self, config: IngestConfig, source: Source, known: Collection[str], parts: Parts) -> None:
        self._config, self._source, self._known, self._parts = config, source, known, parts
        self._total = 0  # pieces, once they were gone through
        self._begun = self._rows = self._samples = 0
        self._pieces: dict[int, Piece] = {}  # that are being read
        self._early = Tally(config, len(known)) if config.groups == 1 else None  # which ends what is surely in vain
        self._presence = ""  # of a group that does not publish

    def do_own(self) -> GroupDone:
        """Prepare this group's share: every `groups`-th piece. Ends early where all was published meanwhile."""
        self._presence = self._parts.enter()
        try:
            self._do(lambda piece: piece % self._config.groups == self._config.group)
        except PartsGone:
            get_logger().info("group_overtaken", dataset=self._config.dataset, group=self._config.group)
        finally:
            self._parts.leave(self._presence)
        return self._done()

    def do_all(self) -> GroupDone:
        """Prepare the share of group 0, then what the others have not done: from the end, where they come to last."""
        self._do(lambda piece: piece % self._config.groups == 0)
        while missing := self._missing():
            self._do(frozenset(missing[len(missing) // 2 :]).__contains__)
        return self._done()

    def results(self) -> Iterator[Result]:
        """Yield what became of every row, in the order in which one process comes to them; a source of tars takes their notes."""
        wanted = ((piece, number) for number in range(1, self._parts.rounds + 1) for piece in range(self._total))
        if isinstance(self._source, ShardsSource):
            yield from self._parts.read(wanted, self._source.take)
            self._source.check_uids(self._known)
        else:
            yield from self._parts.read(wanted, lambda _: None)

    def clean(self) -> None:
        """Remove what all groups have prepared, once it is published."""
        self._parts.clean()

    def _done(self) -> GroupDone:
        done = GroupDone(self._begun, self._rows, self._samples)
        get_logger().info(
            "group_done",
            dataset=self._config.dataset,
            group=self._config.group,
            pieces=done.pieces,
            rows=done.rows,
            of=self._total,
        )
        return done

    def _missing(self) -> list[int]:
        done = self._parts.finished()
        return [piece for piece in range(self._total) if done.get(piece, 0) < self._parts.rounds]

    def _do(self, mine: Callable[[int], bool]) -> None:
        """Prepare the pieces that are `mine`; one of which some rounds are done goes on behind them."""
        done = self._parts.finished()
        for first in range(1, self._parts.rounds + 1):
            if first == 1 or first - 1 in done.values():
                self._stream(lambda piece, first=first: mine(piece) and done.get(piece, 0) == first - 1, first)  # type: ignore[misc]

    def _stream(self, mine: Callable[[int], bool], first: int) -> None:
        """Prepare pieces from their round `first` on, as one stream."""
        writer = _PartWriter(self._parts, first, self._note)
        begin = self._beginner(mine, first, writer)
        places: deque[tuple[Place, bool]] = deque()
        raw = self._fetched(begin, first) if self._source.downloads else self._read(begin)
        with closing(writer), closing(_noted(raw, places, self._config)) as rows:
            shown = progress(rows, what=f"ingest {self._config.dataset}", total=None, unit="img")
            with closing(prepare_all(shown, self._config, with_looks=self._source.downloads)) as results:
                for row in results:
                    if self._early is not None:
                        self._early.add(row)
                    place, was_sample = places.popleft()
                    writer.add(place, Result(row, was_sample))
                    self._rows += 1
                    self._samples += not isinstance(row, Rejected)
            writer.end()
        self._begun += len(writer.begun)

    def _beginner(self, mine: Callable[[int], bool], first: int, writer: _PartWriter) -> Callable[[int], bool]:
        """Return what says of a piece, when it is come to, whether it is to be done now."""

        def begin(piece: int) -> bool:
            if not mine(piece) or self._parts.has(piece, first):
                return False
            if self._presence and not self._parts.is_wanted(self._presence):
                return False
            writer.begun.append(piece)
            return True

        return begin

    def _read(self, begin: Callable[[int], bool]) -> Iterator[tuple[Place, Raw]]:
        """Yield the rows of the pieces, one after the other."""
        limit, before = self._limit(), 0
        self._total = 0
        with closing(_closable(self._source.pieces(self._known))) as pieces:
            for number, piece in enumerate(pieces):
                if limit is not None and before >= limit:
                    return
                self._total = number + 1
                before += piece.rows or 0
                if begin(number):
                    self._pieces[number] = piece
                    yield from (((1, number), row) for row in piece.read())

    def _fetched(self, begin: Callable[[int], bool], first: int) -> Iterator[tuple[Place, Raw]]:
        """Yield the rows of the pieces as they come from the network, round by round."""
        from drrho_clip.data.sources.urls import UrlSource

        assert isinstance(self._source, UrlSource)
        size = self._config.shard_samples
        left = _Left(size, self._known, begin, lambda piece: self._parts.settled(piece, first - 1))
        self._total = 0
        for number, piece in enumerate(self._source.pieces(self._known)):
            self._total = number + 1
            if not piece.rows:
                left.ask(number)  # none of its rows will be come to
        with closing(_closable(self._source.fetch(left, first))) as rows:
            for row in rows:
                attempts = row.fetch.attempts if row.fetch else 0
                yield (max(1, attempts), int(row.key) // size), row

    def _note(self, piece: int) -> dict[str, Any]:
        read = self._pieces.pop(piece, None)
        return read.note() if read else {}

    def _limit(self) -> int | None:
        return max(0, self._config.samples - len(self._known)) if self._config.samples else None


def check_groups(config: IngestConfig, source: Source, known: Collection[str]) -> None:
    """Raise ConfigError for what groups cannot share."""
    if config.retry_failed:
        raise ConfigError("retry_failed is for one process", fix="Leave `groups` out for this ingest.")
    first = next(source.pieces(known), None) if config.samples else None
    if first is not None and first.rows is None:
        raise ConfigError(
            f"groups cannot share the first {config.samples} samples of the source '{config.source}': how many a tar or shard "
            "has is known only once it is read",
            fix="Leave `samples` or `groups` out, or let `path` name fewer tars.",
        )


class _Left(Container[str]):
    """The rows of a table that are not to be fetched now: known, of others' pieces, or settled in earlier rounds."""

    def __init__(
        self, size: int, known: Container[str], begin: Callable[[int], bool], settled: Callable[[int], Iterator[str]]
    ) -> None:
        self._size, self._known, self._begin, self._settled = size, known, begin, settled
        self._piece = -1
        self._skipped: frozenset[str] | None = None  # keys of the piece; None = all of them

    def __contains__(self, key: object) -> bool:
        if key in self._known:
            return True
        self.ask(int(str(key)) // self._size)
        return self._skipped is None or key in self._skipped

    def ask(self, piece: int) -> None:
        """Come to a piece; rows are asked for in their order, so once for each."""
        if piece != self._piece:
            self._piece = piece
            self._skipped = frozenset(self._settled(piece)) if self._begin(piece) else None


class _PartWriter:
    """Writes the parts of the pieces that were begun, in the order of the rounds of each; empty ones too."""

    def __init__(self, parts: Parts, first: int, note: Callable[[int], dict[str, Any]]) -> None:
        self._parts, self._first, self._note = parts, first, note
        self.begun: list[int] = []
        self._next: dict[int, int] = {}  # the round that a piece's next part is of
        self._lost: set[int] = set()  # pieces that another group does
        self._place: Place | None = None
        self._file: PartFile | None = None

    def add(self, place: Place, result: Result) -> None:
        """Add a row; places never go back."""
        if place != self._place:
            self._finish()
            self._place = place
            round_number, piece = place
            self._fill(piece, round_number)
        if place[1] in self._lost:
            return
        if self._file is None:
            self._file = PartFile()
        self._file.add(result)

    def end(self) -> None:
        """Write what is left."""
        self._finish()
        for piece in self.begun:
            self._fill(piece, self._parts.rounds + 1)

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.remove()
            self._file = None

    def _finish(self) -> None:
        if self._file is not None and self._place is not None:
            self._write(self._place[1], self._file)
            self.close()

    def _fill(self, piece: int, until: int) -> None:
        """Write the rounds of a piece that brought no row, up to the one before `until`."""
        while piece not in self._lost and self._next.get(piece, self._first) < until:
            file = PartFile()
            try:
                self._write(piece, file)
            finally:
                file.remove()

    def _write(self, piece: int, file: PartFile) -> None:
        round_number = self._next.get(piece, self._first)
        self._next[piece] = round_number + 1
        if not self._parts.write(piece, round_number, file.end(self._note(piece))):
            self._lost.add(piece)


def _noted(
    rows: Iterator[tuple[Place, Raw]], places: deque[tuple[Place, bool]], config: IngestConfig
) -> Generator[Row, None, None]:
    """Yield the rows with their splits, while `places` keeps where those that are on their way belong."""
    with closing(_closable(rows)) as found:
        for place, row in found:
            places.append((place, isinstance(row, RawSample)))
            yield with_split(row, config)


def _closable(rows: Iterable[T]) -> Generator[T, None, None]:
    """Yield the same; closing it ends what is behind it at once."""
    yield from rows
