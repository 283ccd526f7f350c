"""Where image-text data comes from: one module per kind, opened by one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from drrho_clip.data.config import IngestConfig, SourceKind
from drrho_clip.data.sources.base import REASONS, RawSample, Rejected, Source, reason_class
from drrho_clip.errors import ConfigError

if TYPE_CHECKING:
    from drrho_clip.storage import Store

__all__ = ["REASONS", "RawSample", "Rejected", "Source", "open_source", "reason_class"]

_PATHS = {
    "folder": "Set it to the folder that holds the images.",
    "table": "Set it to a .csv, .tsv or .parquet file, or a list of URLs.",
    "curated": "Set it to the name of a run, whose weights say what is kept.",
    "shards": "Set it to a folder of .tar files, a pattern such as 'data/{000..010}.tar', or an s3:// or http(s):// URL.",
}


def open_source(config: IngestConfig, store: Store | None = None) -> Source:
    """Return the source that `config` names; shards that lie in `store` are read through it.

    Raises ConfigError for settings that do not fit the kind of source, DataError where there is nothing to read.
    """
    if config.source in _PATHS and not config.path:
        raise ConfigError(f"The source '{config.source}' needs `path`", fix=_PATHS[config.source])
    return _OPENERS[config.source](config, store)


def _folder(config: IngestConfig, _: Store | None) -> Source:
    from drrho_clip.data.sources.folder import FolderSource

    return FolderSource(config)


def _table(config: IngestConfig, _: Store | None) -> Source:
    from drrho_clip.data.sources.columns import open_rows, url_column
    from drrho_clip.data.sources.table import TableSource

    rows = open_rows(config.path, config.separator)
    column = url_column(rows, config)
    if column is None:
        return TableSource(config, rows)
    from drrho_clip.data.sources.urls import UrlSource

    return UrlSource(config, rows, column)


def _shards(config: IngestConfig, store: Store | None) -> Source:
    from drrho_clip.data.sources.shards import ShardsSource

    return ShardsSource(config, store)


def _openmoji(config: IngestConfig, _: Store | None) -> Source:
    from drrho_clip.data.sources.openmoji import OpenMojiSource

    return OpenMojiSource(config)


def _scenes(config: IngestConfig, _: Store | None) -> Source:
    from drrho_clip.data.sources.scenes import ScenesSource

    return ScenesSource(config)


def _curated(config: IngestConfig, store: Store | None) -> Source:
    from drrho_clip.data.sources.curated import CuratedSource

    if store is None:
        raise ConfigError("The source 'curated' needs the store of its run")
    return CuratedSource(config, store)


_OPENERS: dict[SourceKind, Callable[[IngestConfig, Store | None], Source]] = {  # imported when used: each has packages of its own
    "folder": _folder,
    "table": _table,
    "shards": _shards,
    "openmoji": _openmoji,
    "scenes": _scenes,
    "curated": _curated,
}
