"""Blocks whose insides are computed again backward: the same training, in less memory."""

from __future__ import annotations

from typing import Any

import open_clip.transformer
import pytest
from test_train import in_process, settings

from drrho_clip.models.export import exported_sha256
from drrho_clip.training import train
from run_records import untimed_records


@pytest.fixture
def checkpointed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each block whose insides were dropped."""
    found: list[bool] = []
    checkpoint = open_clip.transformer.checkpoint

    def noted(*args: Any, **kwargs: Any) -> Any:
        found.append(True)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr(open_clip.transformer, "checkpoint", noted)
    return found


def test_weights_and_metrics_stay_bit_for_bit(scenes_store: Any, checkpointed: list[bool]) -> None:
    train(settings("plain"), scenes_store, launch=in_process)
    assert not checkpointed
    train(settings("again", gradient_checkpointing="yes"), scenes_store, launch=in_process)
    assert len(checkpointed) >= 12 * 2  # both towers of each step
    assert untimed_records(scenes_store, "again") == untimed_records(scenes_store, "plain")
    assert exported_sha256("again", scenes_store) == exported_sha256("plain", scenes_store)


def test_it_may_change_within_a_run(scenes_store: Any, checkpointed: list[bool]) -> None:
    """As when the memory did not suffice."""
    train(settings(), scenes_store, launch=in_process)
    train(settings(gradient_checkpointing="yes"), scenes_store, launch=in_process)
    assert not checkpointed
