"""The weights in a run's checkpoints: which there are, and how they are fetched for inference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from drrho_clip.errors import ModelError, ObjectMissing, nearest
from drrho_clip.models.weights import cache_folder, file_sha256
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

MODEL = "model.safetensors"


@dataclass(frozen=True)
class CheckpointWeights:
    """The model of one checkpoint, and the training samples that it has seen."""

    run: str
    step: int
    samples_seen: int
    architecture: str
    sha256: str

    @property
    def key(self) -> str:
        """Key of the weights in the store."""
        return f"{layout.checkpoint(self.run, self.step)}/{MODEL}"

    @property
    def spec(self) -> str:
        """What the model is called in records."""
        return f"run:{self.run}@{self.step}"


def list_checkpoints(run: str, store: Store) -> list[int]:
    """Steps of a run's complete checkpoints, oldest first; ModelError where it has none."""
    marker = layout.checkpoint_marker(run, 0).rpartition("/")[2]
    prefix = layout.checkpoint(run, 0).removesuffix(f"{0:08d}")
    keys = (info.key for info in store.list(prefix))
    steps = sorted(int(key.removeprefix(prefix).split("/")[0]) for key in keys if key.endswith(f"/{marker}"))
    if not steps:
        runs = sorted({info.key.split("/")[1] for info in store.list("runs/")})
        fix = nearest(run, runs) if run not in runs and runs else "Train it first, `drrho train`."
        raise ModelError(f"Run '{run}' has no checkpoints", where=store.uri_of(layout.run(run)), fix=fix)
    return steps


def checkpoint_weights(run: str, step: int, store: Store) -> CheckpointWeights:
    """Return what a checkpoint's marker and the run's config say of its model; ModelError where they cannot be understood."""
    key = layout.checkpoint_marker(run, step)
    try:
        marker = json.loads(store.read(key))
        config = yaml.safe_load(store.read(layout.run_config(run)))
        return CheckpointWeights(
            run, step, step * int(config["batch_size"]), str(config["architecture"]), str(marker["files"][MODEL]["sha256"])
        )
    except ObjectMissing as error:
        raise ModelError(f"Checkpoint {step} of run '{run}' cannot be used: {error.what}", where=error.where) from None
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ModelError(
            f"Checkpoint {step} of run '{run}' cannot be understood: {type(error).__name__} {error}", where=store.uri_of(key)
        ) from None


def fetch_checkpoint(checkpoint: CheckpointWeights, store: Store) -> Path:
    """Return a local copy of the weights, cached by their hash; ModelError where they are gone or damaged."""
    path = cache_folder(checkpoint.sha256) / MODEL
    if path.is_file() and file_sha256(path) == checkpoint.sha256:
        return path
    try:
        store.download(checkpoint.key, path)
        damaged = file_sha256(path) != checkpoint.sha256
    except ObjectMissing:
        damaged = True
    if damaged:
        raise ModelError(
            f"Checkpoint {checkpoint.step} of run '{checkpoint.run}' is damaged: its weights are not those that its marker names",
            where=store.uri_of(checkpoint.key),
            fix="Evaluate others, for instance `--checkpoints last`, or delete it.",
        )
    return path
