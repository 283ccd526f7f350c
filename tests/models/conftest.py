"""A cache of its own for every test, and a small exported model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drrho_clip.models import create_model, save_export
from drrho_clip.storage import Store, layout


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home with an empty cache, and a Hugging Face hub that is out of reach."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def nano() -> torch.nn.Module:
    """A model of the smallest architecture, with random weights."""
    torch.manual_seed(0)
    return create_model("drrho-nano")


@pytest.fixture
def exported(nano: torch.nn.Module, folder_store: Store) -> Store:
    """A store with `nano` as the export of the run `small`."""
    save_export(nano, "drrho-nano", folder_store, layout.export("small"))
    return folder_store
