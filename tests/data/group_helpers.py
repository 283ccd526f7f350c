"""An ingest that groups share, and what it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from pathlib import Path

from ingest_helpers import contents

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest, ingest_group
from drrho_clip.data.manifest import Manifest
from drrho_clip.storage import Store, open_store


def hashes(store: Store) -> dict[str, str]:
    """sha256 of all that is in a store."""
    return {key: hashlib.sha256(data).hexdigest() for key, data in contents(store).items()}


def parts_of(store: Store) -> list[str]:
    return [info.key for info in store.list("datasets/") if info.key.endswith(".part")]


def of_group(config: IngestConfig, group: int, groups: int) -> IngestConfig:
    return config.model_copy(update={"group": group, "groups": groups})


def shared(config: IngestConfig, store: Store, groups: int, *, absent: Container[int] = ()) -> Manifest:
    """Ingest as so many groups, one after the other, less those that never run; group 0 comes last."""
    for group in range(1, groups):
        if group not in absent:
            ingest_group(of_group(config, group, groups), store)
    return ingest(of_group(config, 0, groups), store)


def alone(config: IngestConfig, folder: Path) -> dict[str, str]:
    """What one process leaves."""
    store = open_store(folder)
    ingest(config, store)
    return hashes(store)
