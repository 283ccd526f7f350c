"""A finished comparison on a dataset of drawn pictures, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic import draw_pictures, write_comparison

from drrho_clip.storage import Store, open_store


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with three finished runs: not to be written to."""
    folder = tmp_path_factory.mktemp("report")
    draw_pictures(folder / "pictures", 60)
    write_comparison(open_store(folder / "store"), folder / "pictures")
    return folder / "store"


@pytest.fixture
def compared(finished: Path, tmp_path: Path) -> Store:
    """A store of one's own with three finished runs."""
    shutil.copytree(finished, tmp_path / "store")
    return open_store(tmp_path / "store")
