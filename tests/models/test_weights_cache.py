"""The user's cache of weights keeps to its limit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from drrho_clip.models import weights
from drrho_clip.models.weights import IN_USE_SECONDS, cache_folder


def fill(name: str, hours: float) -> Path:
    """Weights of 1,000 bytes that were last used some hours ago."""
    folder = cache_folder(name)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    used = time.time() - 3600 * hours
    os.utime(folder, (used, used))
    return folder


def test_weights_that_were_not_used_for_longest_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "CACHE_BYTES", 2500)
    oldest, used_again, old = fill("a", 9), fill("b", 8), fill("c", 7)
    assert cache_folder("b") == used_again
    assert [folder.is_dir() for folder in (oldest, used_again, old)] == [False, True, True]
    fill("d", 0)
    cache_folder("e")
    assert sorted(folder.name for folder in (cache / "drrho_clip").iterdir()) == ["b", "d", "e"]


def test_weights_that_may_be_in_use_stay(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "CACHE_BYTES", 500)
    recent = [fill(name, 0.9 * IN_USE_SECONDS / 3600) for name in "abc"]
    cache_folder("d")
    assert all(folder.is_dir() for folder in recent)
