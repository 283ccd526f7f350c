"""Training against SeaweedFS, killed in the middle of an epoch and started again, ends where an undisturbed run ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drrho_clip.errors import TrainingError
from drrho_clip.models import load_model
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.training.step import find_summary
from run_records import untimed_records


def settings(run: str) -> TrainConfig:
    return TrainConfig(
        run=run,
        dataset="scenes",
        method="drrho",
        reference="ref",
        architecture="drrho-nano",
        batch_size=32,
        samples=32 * 30,
        learning_rate=1e-3,
        warmup_steps=2,
        temperature=0.1,
        augmentation="shift",
        log_steps=1,
        checkpoint_steps=4,
    )


def copy(folder: Path, store: Store) -> None:
    source = open_store(folder)
    for info in source.list():
        store.write(info.key, source.read(info.key))


def killed_after_a_checkpoint(arguments: list[str]) -> None:
    """SIGKILL between two checkpoints: after some step that lies behind the second one."""
    process = subprocess.Popen([sys.executable, "-m", "drrho_clip.training", *arguments], stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b'"event": "step"' in line and json.loads(line)["step"] >= 14:  # 11 steps an epoch: inside of the second one
            process.kill()
            break
    process.stderr.read()
    assert process.wait() == -9


def test_a_killed_run_ends_bit_for_bit_where_an_undisturbed_one_does(scenes_folder: Path, s3_store: Store) -> None:
    copy(scenes_folder, s3_store)
    with pytest.raises(TrainingError, match="without a summary"):
        train(settings("killed"), s3_store, launch=killed_after_a_checkpoint)
    assert find_summary("killed", s3_store) is None
    saved = Checkpoints(s3_store, "killed", 2).steps()
    assert saved
    assert saved[0] % 11 != 0, "the checkpoint lies within an epoch"

    train(settings("killed"), s3_store)
    train(settings("undisturbed"), s3_store)
    assert untimed_records(s3_store, "killed") == untimed_records(s3_store, "undisturbed")
    killed, undisturbed = (load_model(f"run:{run}", s3_store).model.state_dict() for run in ("killed", "undisturbed"))
    assert all(torch.equal(killed[name], value) for name, value in undisturbed.items())
    assert s3_store.read(layout.run_weights("killed")) == s3_store.read(layout.run_weights("undisturbed"))
