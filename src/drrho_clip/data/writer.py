"""Shards: tars of samples written with webdataset, the same bytes for the same samples, beside them their index and keys."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from drrho_clip.data.manifest import CHECKED_AT_ONCE, Adopted, Shard, find_manifest
from drrho_clip.data.noise import exchange, is_exchanged
from drrho_clip.data.prepare import Prepared
from drrho_clip.data.reader import SampleReader, find_keys, sample_name
from drrho_clip.data.tar_index import Member, index_text, whole_blocks
from drrho_clip.errors import DataError, ObjectChanged
from drrho_clip.storage import layout
from drrho_clip.storage.files import disk_errors

if TYPE_CHECKING:
    from webdataset import TarWriter

    from drrho_clip.data.manifest import Manifest
    from drrho_clip.data.sources.adoption import TarFacts
    from drrho_clip.storage import ObjectInfo, Store


class ShardWriter:
    """Writes the shards of one dataset one after the other; none of them is published before a manifest names it."""

    def __init__(self, store: Store, dataset: str, published: Sequence[Shard], *, seed: int, caption_noise: float) -> None:
        """Go on behind the shards that are published; `caption_noise` is the share of training captions to exchange."""
        self.store, self.dataset = store, dataset
        self.seed, self.caption_noise = seed, caption_noise
        self.shards = list(published)
        self.exchanged = 0
        self._written: dict[str, str] = {}  # ETag by key

    @property
    def total(self) -> int:
        """Samples so far: the base of the next shard."""
        return self.shards[-1].base + self.shards[-1].count if self.shards else 0

    def write(self, samples: Sequence[Prepared], split: str) -> Shard:
        """Write one shard: tar, index and keys."""
        key = layout.shard(self.dataset, len(self.shards))
        base = self.total
        captions = self._captions(samples)
        with disk_errors(Path(os.environ.get("TMPDIR", "/tmp"))), tempfile.TemporaryDirectory(prefix="drrho-") as folder:
            tar, index, keys = (Path(folder, name) for name in ("tar", "idx", "keys"))
            index.write_bytes(index_text(_write_tar(tar, samples, captions, base)))
            keys.write_text(json.dumps([sample.key for sample in samples]), encoding="utf-8")
            self._put(key, layout.shard_index(key), index)
            self._put(key, layout.shard_keys(key), keys)
            etag = self._put(key, key, tar)
            sha256, size = _sha256(tar.open("rb")), tar.stat().st_size
        shard = Shard(key=key, etag=etag, sha256=sha256, bytes=size, count=len(samples), base=base, split=split)
        self.shards.append(shard)
        self.exchanged += sum(map(_has_anothers, samples, captions))
        return shard

    def adopt_tar(self, tar: TarFacts, split: str, keys: Sequence[str], members: Sequence[Sequence[Member]]) -> None:
        """Add the samples of one split of a tar that stays where it is: writes their index and keys."""
        key = layout.shard(self.dataset, len(self.shards))
        index = index_text(members)
        with tempfile.TemporaryDirectory(prefix="drrho-") as folder:
            for name, data in ((layout.shard_index(key), index), (layout.shard_keys(key), json.dumps(keys).encode())):
                path = Path(folder, "file")
                path.write_bytes(data)
                self._put(key, name, path)
        self.shards.append(
            Shard(
                key=key,
                etag=tar.etag,
                sha256=tar.sha256,
                bytes=tar.bytes,
                count=len(keys),
                base=self.total,
                split=split,
                adopted=Adopted(location=tar.location, index_sha256=hashlib.sha256(index).hexdigest()),
            )
        )

    def files_of(self, shard: Shard) -> dict[str, str]:
        """Return the ETag of each file of a shard that was written."""
        return {key: self._written[key] for key in (shard.key, layout.shard_index(shard.key), layout.shard_keys(shard.key))}

    def adopt(self, shard: Shard, files: dict[str, str], exchanged: int) -> None:
        """Go on behind a shard that an interrupted ingest wrote; until then it had exchanged so many captions."""
        self.shards.append(shard)
        self._written |= files
        self.exchanged = exchanged

    def check_written(self) -> None:
        """Look at all that was written once more: two ingests of one dataset at a time may have written over each other."""
        with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
            found = pool.map(self.store.head, self._written)
            changed = [key for key, info in zip(self._written, found, strict=True) if not info or info.etag != self._written[key]]
        if changed:
            raise DataError(
                f"Something else wrote to dataset '{self.dataset}' during this ingest: {', '.join(changed[:3])}",
                where=self.store.uri_of(layout.dataset(self.dataset)),
                fix="Let one ingest of a dataset run at a time, and run this one again.",
            )

    def _captions(self, samples: Sequence[Prepared]) -> list[str]:
        captions = [sample.caption for sample in samples]
        chosen = [i for i, s in enumerate(samples) if is_exchanged(s.key, s.split, self.seed, self.caption_noise)]
        for i, caption in zip(chosen, exchange([captions[i] for i in chosen], self.seed), strict=True):
            captions[i] = caption
        return captions

    def _put(self, shard_key: str, key: str, path: Path) -> str:
        """Upload one file of a shard and return its ETag."""
        self._written[key] = self._upload(shard_key, key, path).etag
        return self._written[key]

    def _upload(self, shard_key: str, key: str, path: Path) -> ObjectInfo:
        """Upload a file. What an interrupted ingest left there is adopted if it is the same, else replaced."""
        try:
            return self.store.upload(key, path, if_absent=True)
        except ObjectChanged:
            found = self.store.head(key)
        same_size = found is not None and found.size == path.stat().st_size
        if found and same_size and _sha256(self.store.open(key, etag=found.etag)) == _sha256(path.open("rb")):
            return found
        newest = find_manifest(self.store, self.dataset)
        if newest is not None and any(shard.key == shard_key for shard in newest.shards):
            raise DataError(
                f"Another ingest has added to dataset '{self.dataset}' meanwhile",
                where=self.store.uri_of(key),
                fix="Run this ingest again: it adds what is still missing.",
            )
        return self.store.upload(key, path)  # no manifest names it, so nobody reads it yet


def read_keys(store: Store, manifest: Manifest, shard: Shard) -> list[str]:
    """Return the source's keys of a shard's samples, from the file beside it or, where that is not there, from the tar."""
    keys = find_keys(store, shard)
    return keys if keys is not None else [str(sample.meta["key"]) for sample in SampleReader(store, manifest).shard(shard)]


def _write_tar(path: Path, samples: Sequence[Prepared], captions: Sequence[str], base: int) -> list[list[Member]]:
    """Write a tar, and return where the members of each sample lie in it."""
    from webdataset import TarWriter

    found = []
    with path.open("wb") as stream, TarWriter(stream, encoder=False, user="", group="", mode=0o444, mtime=0) as tar:
        tar.tarstream.format = tarfile.USTAR_FORMAT  # the same bytes as PAX, which looks at every field and finds no need of it
        for position, (sample, caption) in enumerate(zip(samples, captions, strict=True)):
            name = sample_name(base + position)
            contents = {
                sample.image.extension: sample.image.data,
                "json": _meta(sample, exchanged=_has_anothers(sample, caption)),
                "txt": caption.encode(),
            }
            found.append([_write_member(tar, name, *item) for item in sorted(contents.items())])
    return found


def _write_member(tar: TarWriter, name: str, extension: str, data: bytes) -> Member:
    tar.write({"__key__": name, extension: data})
    return Member(extension, tar.tarstream.offset - whole_blocks(len(data)), len(data), f"{name}.{extension}")


def _has_anothers(sample: Prepared, caption: str) -> bool:
    """Whether the caption is another sample's: exchanged now, or (curated data) in the dataset that the sample is from."""
    return caption != sample.caption or bool(sample.extra.get("exchanged"))


def _meta(sample: Prepared, *, exchanged: bool) -> bytes:
    own: dict[str, Any] = {
        "key": sample.key,
        "width": sample.image.width,
        "height": sample.image.height,
        "mode": sample.image.mode,
        "exchanged": exchanged,
        "sha256": hashlib.sha256(sample.image.data).hexdigest(),
    }
    if sample.class_name is not None:
        own["class"] = sample.class_name
    return json.dumps(sample.extra | own, sort_keys=True, default=str).encode()


def _sha256(stream: BinaryIO) -> str:
    with stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
        return digest.hexdigest()
