"""Groups that share an ingest leave, byte for byte, what one process leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ingest_helpers import contents, folder_config, numbered, write_pairs

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest, ingest_group
from drrho_clip.storage import Store, open_store


def hashes(store: Store) -> dict[str, str]:
    """sha256 of all that is in a store."""
    return {key: hashlib.sha256(data).hexdigest() for key, data in contents(store).items()}


def shared(config: IngestConfig, store: Store, groups: int, absent: tuple[int, ...] = ()) -> None:
    """Ingest as so many groups, one after the other, less those that never run; group 0 is the last."""
    for group in range(1, groups):
        if group not in absent:
            ingest_group(config.model_copy(update={"group": group, "groups": groups}), store)
    ingest(config.model_copy(update={"groups": groups}), store)


@pytest.mark.parametrize("groups", [2, 3, 11])
def test_a_folder(tmp_path: Path, groups: int) -> None:
    config = folder_config(
        write_pairs(tmp_path / "pets", numbered(60)), caption_noise=0.4, validation_fraction=0.2, heldout_fraction=0.2
    )
    whole, store = open_store(tmp_path / "whole"), open_store(tmp_path / "store")
    ingest(config, whole)
    shared(config, store, groups)
    assert hashes(store) == hashes(whole)
