"""Existing WebDataset tars, in the order in which they lie, from a folder, s3:// or http(s).

Each tar is indexed whole before its first sample is given, so that partners may stand anywhere in it and a broken tar is found
before anything of it is used. Remote tars are fetched one at a time to the temporary folder (TMPDIR).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import looks_like_image
from drrho_clip.data.sources.adoption import Adoption
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

    def total(self) -> int | None:
        """Unknown before reading."""
        return None

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the samples whose key is not in `known`, tar by tar.

        Raises DataError for a broken tar, for one key in two tars, and where the first tars hold nothing usable.
        """
        origins: dict[str, str] = {}
        endings: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        usable = 0
        for number, tar in enumerate(self._tars):
            if self.adoption and self.adoption.is_known(number):
                usable += 1
                continue
            with tar.on_disk() as path:
                pairing = _paired(path, tar.name)
                endings += pairing.endings
                keys = {pair.key: tar.name for pair in pairing.pairs}
                self._check_keys(keys, origins, known)
                usable += len(keys)
                for item in self._items(number, path, pairing, known):
                    if isinstance(item, Rejected):
                        rejected[item.reason] += 1
                        usable -= item.key in keys
                    yield item
            if not usable and number + 1 in (_PROBED_TARS, len(self._tars)):
                raise _nothing_usable(self._tars[: number + 1], endings, rejected)
        if self.uids and not self.uids.met and not known:
            raise DataError("No sample has a uid of the list", where=self._config.uids, fix="Is it the list of another pool?")

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the tars, each a piece; what goes across them (one key in two tars) is not looked at."""
        return (Piece(None, partial(self._of_tar, number, known)) for number in range(len(self._tars)))

    def fingerprint(self) -> str:
        """The tars' names, and size or ETag where that is known without fetching them."""
        return fingerprint_of((tar.name, tar.version) for tar in self._tars)

    def _of_tar(self, number: int, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        with self._tars[number].on_disk() as path:
            yield from self._items(number, path, _paired(path, self._tars[number].name), known)

    def _items(self, number: int, path: Path, pairing: Pairing, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        self._img2dataset.check(number, pairing)
        if self.adoption:
            self.adoption.look(number, path)
        yield from (item for item in pairing.rejected if item.key not in known)
        for pair in pairing.pairs:
            try:
                if (self.uids is None or self._is_listed(pair, path)) and pair.key not in known:
                    yield self._sample(number, pair, path)
            except BadRow as error:
                if pair.key not in known:
                    yield error.rejected(pair.key)
        yield from self._img2dataset.failed(number, self.uids)

    def _is_listed(self, pair: Pair, path: Path) -> bool:
        assert self.uids is not None
        if pair.fields is None:
            raise BadRow("uid", f"{pair.image.name}: no .json that could hold its uid")
        return self.uids.meet(parse_fields(decode_text(_slice(path, pair.fields)())[0], pair.fields.name), pair.fields.name)

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


def _paired(path: Path, name: str) -> Pairing:
    def is_image(member: Member) -> bool:
        return looks_like_image(Slice(path, member.offset, min(member.size, 16))())

    def pair(members: list[Member]) -> Pairing:
        return pair_members(members, name, is_image)

    return pair(index_tar(path, name, lambda members: len(pair(members).pairs)))


def _slice(path: Path, member: Member) -> Slice:
    return Slice(path, member.offset, member.size)


def _nothing_usable(tars: list[Tar], endings: Counter[str], rejected: Counter[str]) -> DataError:
    found = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(10)) or "nothing"
    dropped = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "none"
    endings_of_images = ", ".join(sorted(IMAGE_ENDINGS))
    return DataError(
        f"No usable sample in the first {len(tars)} tars. Member endings found: {found}. Dropped: {dropped}",
        where=tars[0].name,
        fix=f"A sample is an image ({endings_of_images}) and, of the same name, a caption ({', '.join(TEXT_ENDINGS)}, or a .json"
        " whose caption `caption_field` names).",
    )
