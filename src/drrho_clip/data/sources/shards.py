"""Existing WebDataset tars, in the order in which they lie, from a folder, s3:// or http(s).

Each tar is indexed whole before its first sample is given, so that partners may stand anywhere in it and a broken tar is found
before anything of it is used. Remote tars are fetched one at a time to the temporary folder (TMPDIR).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import looks_like_image
from drrho_clip.data.sources.adoption import Adoption, TarFacts
from drrho_clip.data.sources.base import Held, Piece, RawSample, Rejected, Slice
from drrho_clip.data.sources.captions import BadRow, decode_text
from drrho_clip.data.sources.fields import IMAGE_ENDINGS, parse_fields
from drrho_clip.data.sources.img2dataset import Img2dataset
from drrho_clip.data.sources.locate import Tar, find_tars
from drrho_clip.data.sources.order import fingerprint_of
from drrho_clip.data.sources.pairing import TEXT_ENDINGS, Pair, Pairing, pair_members
from drrho_clip.data.sources.tars import Member, index_tar
from drrho_clip.data.sources.texts import texts_of
from drrho_clip.data.sources.uids import Uids
from drrho_clip.errors import DataError
from drrho_clip.storage import Store

_PROBED_TARS = 3  # without one usable sample in them the source is given up


class ShardsSource:
    """The samples of existing tars; the key of a sample is its name in the tar, folders kept, without the ending."""

    notice = ""
    templates: tuple[str, ...] = ()
    classnames: tuple[str, ...] = ()
    downloads = False

    def __init__(self, config: IngestConfig, store: Store | None = None) -> None:
        """Find the tars; raise DataError where one is missing or there is none."""
        self._config = config
        self._tars = find_tars(config.path, store)
        self.adoption = Adoption(store, self._tars) if config.adopt and store else None
        self._img2dataset = Img2dataset(self._tars)
        self.uids = Uids(config.uids, store) if config.uids else None
        self._met: dict[int, list[int]] = {}  # places in the list of uids, by the tar in whose piece they were met
        self._probe = _Probe(self._tars)

    def total(self) -> int | None:
        """Unknown before reading."""
        return None

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the samples whose key is not in `known`, tar by tar.

        Raises DataError for a broken tar, for one key in two tars, and where the first tars hold nothing usable.
        """
        origins: dict[str, str] = {}
        for number in self._new():
            yield from self._of_tar(number, known, origins)
            self._met.pop(number, None)
        self.check_uids(known)

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the tars, each a piece; what goes across them (one key in two tars) is not looked at."""
        for number in self._new():
            yield Piece(None, partial(self._of_tar, number, known, {}), partial(self._note, number))

    def take(self, note: dict[str, Any]) -> None:
        """Take over what a piece's note says, that another process may have read."""
        if self.adoption and note["facts"]:
            self.adoption.facts[note["tar"]] = TarFacts(**note["facts"])
        if self.uids:
            self.uids.were_met(note["met"])

    def check_uids(self, known: Collection[str]) -> None:
        """Raise DataError where all was read and nothing has a uid of the list."""
        if self.uids and not self.uids.met and not known:
            raise DataError("No sample has a uid of the list", where=self._config.uids, fix="Is it the list of another pool?")

    def fingerprint(self) -> str:
        """The tars' names, and size or ETag where that is known without fetching them."""
        return fingerprint_of((tar.name, tar.version) for tar in self._tars)

    def _new(self) -> Iterator[int]:
        """Yield the tars that have to be read: none that is adopted already."""
        for number in range(len(self._tars)):
            if self.adoption and self.adoption.is_known(number):
                self._probe.pass_over()
            else:
                yield number

    def _of_tar(self, number: int, known: Collection[str], origins: dict[str, str]) -> Iterator[RawSample | Rejected]:
        """Yield what is in one tar; `origins` has the keys of the tars before it, with their names."""
        if self.adoption:
            self.adoption.begin(number)
        tar = self._tars[number]
        with tar.on_disk() as path:
            pairing = _paired(path, tar.name)
            self._check_keys({pair.key: tar.name for pair in pairing.pairs}, origins, known)
            yield from self._probe.watched(number, pairing, self._items(number, path, pairing, known))

    def _note(self, number: int) -> dict[str, Any]:
        facts = self.adoption.facts.get(number) if self.adoption else None
        return {"tar": number, "facts": asdict(facts) if facts else None, "met": self._met.pop(number, [])}

    def _items(self, number: int, path: Path, pairing: Pairing, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        self._img2dataset.check(number, pairing)
        if self.adoption:
            self.adoption.look(number, path)
        yield from (item for item in pairing.rejected if item.key not in known)
        for pair in pairing.pairs:
            try:
                if (self.uids is None or self._is_listed(number, pair, path)) and pair.key not in known:
                    yield self._sample(number, pair, path)
            except BadRow as error:
                if pair.key not in known:
                    yield error.rejected(pair.key)
        yield from self._img2dataset.failed(number, self.uids)

    def _is_listed(self, number: int, pair: Pair, path: Path) -> bool:
        assert self.uids is not None
        if pair.fields is None:
            raise BadRow("uid", f"{pair.image.name}: no .json that could hold its uid")
        fields = parse_fields(decode_text(_slice(path, pair.fields)())[0], pair.fields.name)
        place = self.uids.meet(fields, pair.fields.name)
        if place is not None:
            self._met.setdefault(number, []).append(place)
        return place is not None

    def _check_keys(self, keys: dict[str, str], origins: dict[str, str], known: Collection[str]) -> None:
        """Raise DataError where a key of this tar (whose name each has as its value) is also that of another tar's sample."""
        is_new = self.adoption is not None and self.adoption.passes_over
        for key, name in keys.items():
            other = "a tar of the dataset" if is_new and key in known else origins.setdefault(key, name)
            if other != name:
                raise DataError(
                    f"Two samples have the key '{key}'",
                    where=f"{other} and {name}",
                    fix="Give every sample a name of its own, or ingest the tars into two datasets.",
                )

    def _sample(self, number: int, pair: Pair, path: Path) -> RawSample:
        members = {"text": pair.text, "fields": pair.fields, "label": pair.label}
        parts = {kind: (member.name, _slice(path, member)) for kind, member in members.items() if member}
        texts = texts_of(self._config, pair.key, parts)
        image, is_local = _slice(path, pair.image), self._tars[number].fetch is None
        place = None
        if self.adoption:
            used = (member for kind, member in members.items() if member and kind in texts.used)
            place = self.adoption.place(number, path, (pair.image, *used))
        return RawSample(
            key=pair.key,
            load=image if is_local else Held(image()),  # a fetched tar is gone by the time that others load
            caption=texts.caption,
            class_name=texts.class_name,
            split=texts.split,
            extra=texts.extra,
            place=place,
        )


class _Probe:
    """Gives a source up whose first tars hold nothing usable."""

    def __init__(self, tars: Sequence[Tar]) -> None:
        self._tars = tars
        self._tried = 0  # from the first one on; others may be read by other processes, or were
        self._usable = 0
        self._endings: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()

    def pass_over(self) -> None:
        """Hear of a tar that is known to be of use."""
        self._usable += 1

    def watched(self, number: int, pairing: Pairing, items: Iterator[RawSample | Rejected]) -> Iterator[RawSample | Rejected]:
        """Yield the items of a tar; raise DataError where that is the last that was tried in vain."""
        keys = {pair.key for pair in pairing.pairs}
        self._endings += pairing.endings
        self._usable += len(keys)
        for item in items:
            if isinstance(item, Rejected):
                self._rejected[item.reason] += 1
                self._usable -= item.key in keys
            yield item
        if not self._usable and number == self._tried:
            self._tried += 1
            if self._tried in (_PROBED_TARS, len(self._tars)):
                raise _nothing_usable(self._tars[: self._tried], self._endings, self._rejected)


def _paired(path: Path, name: str) -> Pairing:
    def is_image(member: Member) -> bool:
        return looks_like_image(Slice(path, member.offset, min(member.size, 16))())

    def pair(members: list[Member]) -> Pairing:
        return pair_members(members, name, is_image)

    return pair(index_tar(path, name, lambda members: len(pair(members).pairs)))


def _slice(path: Path, member: Member) -> Slice:
    return Slice(path, member.offset, member.size)


def _nothing_usable(tars: Sequence[Tar], endings: Counter[str], rejected: Counter[str]) -> DataError:
    found = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(10)) or "nothing"
    dropped = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "none"
    endings_of_images = ", ".join(sorted(IMAGE_ENDINGS))
    return DataError(
        f"No usable sample in the first {len(tars)} tars. Member endings found: {found}. Dropped: {dropped}",
        where=tars[0].name,
        fix=f"A sample is an image ({endings_of_images}) and, of the same name, a caption ({', '.join(TEXT_ENDINGS)}, or a .json"
        " whose caption `caption_field` names).",
    )
