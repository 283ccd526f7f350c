"""The dataset of a run without the training samples that the run weighed least."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.manifest import Manifest, Shard, load_manifest
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.data.sources.base import Held, Piece, RawSample, Rejected
from drrho_clip.data.sources.order import joined
from drrho_clip.data.weights import load_weights
from drrho_clip.errors import ConfigError, DataError, ObjectMissing
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

_OWN = frozenset({"key", "width", "height", "mode", "class", "sha256"})  # of a sample's metadata: written anew


class CuratedSource:
    """The samples in their order, with the classes, captions and splits that they have; other splits than `train` are whole."""

    downloads = False

    def __init__(self, config: IngestConfig, store: Store) -> None:
        """Find what is dropped. DataError: no such run, its data was made anew since, or its weights tell nothing apart."""
        if config.caption_noise or config.caption_noise_part == "clean":
            raise ConfigError("The source 'curated' takes the captions as they are", fix="Leave caption_noise out.")
        self._manifest = _trained_on(store, config.path)
        self._reader = SampleReader(store, self._manifest)
        self._dropped = _smallest(store, config.path, 1 - config.keep)
        self.notice = self._manifest.notice
        self.classnames, self.templates = self._manifest.classnames, self._manifest.templates

    def total(self) -> int | None:
        """Number of samples that are kept."""
        return self._manifest.total - len(self._dropped)

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield what is kept and whose key is not in `known`."""
        return joined(self.pieces(known))

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the shards of the run's dataset, each a piece."""
        return (Piece(None, partial(self._of_shard, shard, known)) for shard in self._manifest.shards)

    def fingerprint(self) -> str:
        """That of the run's dataset; the weights of a finished run stay as they are."""
        return self._manifest.id

    def _of_shard(self, shard: Shard, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        for sample in self._reader.shard(shard):
            if sample.index not in self._dropped and sample.meta["key"] not in known:
                yield _raw(sample, shard.split)


def _raw(sample: Sample, split: str) -> RawSample:
    extra = {name: value for name, value in sample.meta.items() if name not in _OWN}
    return RawSample(str(sample.meta["key"]), Held(sample.image), sample.caption, sample.meta.get("class"), split, extra)


def _trained_on(store: Store, run: str) -> Manifest:
    try:
        summary = json.loads(store.read(layout.run_summary(run)))
    except ObjectMissing:
        raise DataError(
            f"There is no finished run '{run}'", where=store.uri_of(layout.run(run)), fix="Train it to its end first."
        ) from None
    manifest = load_manifest(store, summary["dataset"], summary["dataset_version"])
    if manifest.id != summary["dataset_id"]:
        raise DataError(
            f"Dataset '{manifest.name}' was made anew after run '{run}'", where=store.uri, fix="Train on the new data first."
        )
    return manifest


def _smallest(store: Store, run: str, share: float) -> frozenset[int]:
    """Indices of the share of the weighed samples with the smallest weights, the later one first where weights are equal."""
    weights = load_weights(store, run)
    if weights is None:
        raise DataError(f"Run '{run}' has left no weights", where=store.uri_of(layout.run(run)), fix="Train it to its end first.")
    if weights.alike:
        raise DataError(
            f"Run '{run}' weighs all of its samples alike", where=store.uri_of(layout.run_weights(run)), fix="Name a drrho run."
        )
    index, weight = weights.index, weights.weight
    order = sorted(range(len(index)), key=lambda i: (weight[i], -index[i]))
    return frozenset(int(index[i]) for i in order[: round(share * len(order))])
