"""A run: its record, its checkpoints, and what it published at the end."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import TYPE_CHECKING

from drrho_clip.data.manifest import load_manifest
from drrho_clip.errors import ConfigError, nearest
from drrho_clip.models import load_model
from drrho_clip.storage import layout
from drrho_clip.training import TrainConfig, find_summary, read_config
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.verification.findings import Verified

if TYPE_CHECKING:
    from drrho_clip.storage import Store

STEP = re.compile(r"/checkpoints/step-(\d+)/")


def verify_run(store: Store, run: str) -> Verified:
    """Read everything of a run: each published checkpoint, its metrics and, where it has ended, its export and weights.

    ConfigError where there is no such run; all that is wrong is in the result.
    """
    if store.head(layout.run_config(run)) is None:
        known = sorted({info.key.split("/")[1] for info in store.list("runs/")})
        raise ConfigError(
            f"There is no run '{run}'", where=store.uri, fix=nearest(run, known) if known else "There is no run at all."
        )
    found = Verified()
    with found.looking_at(layout.run_config(run)):
        config = read_config(run, store)
        _dataset(store, config, found)
        _checkpoints(store, run, found)
        last = _metrics(store, run, found)
        _end(store, config, last, found)
    return found


def _dataset(store: Store, config: TrainConfig, found: Verified) -> None:
    with found.looking_at(f"dataset {config.dataset} version {config.dataset_version}"):
        load_manifest(store, config.dataset, config.dataset_version)


def _checkpoints(store: Store, run: str, found: Verified) -> None:
    published = Checkpoints(store, run, keep=1).steps()
    for step in published:
        found.counts["checkpoints"] += 1
        with found.looking_at(layout.checkpoint_marker(run, step)):
            _checkpoint(store, run, step, found)
    there = {int(match[1]) for info in store.list(layout.run(run) + "/checkpoints/") if (match := STEP.search(info.key))}
    for step in sorted(there - set(published)):
        found.notes.append(f"{layout.checkpoint(run, step)}: it was never finished, and nobody reads it")


def _checkpoint(store: Store, run: str, step: int, found: Verified) -> None:
    from safetensors.torch import load

    marker = json.loads(store.read(layout.checkpoint_marker(run, step)))
    for name, expected in marker["files"].items():
        key = f"{layout.checkpoint(run, step)}/{name}"
        with found.looking_at(key):
            data = store.read(key)
            found.counts["bytes"] += len(data)
            if (len(data), hashlib.sha256(data).hexdigest()) != (expected["bytes"], expected["sha256"]):
                found.problems.append(f"{key}: its {len(data):,} bytes are not those that were saved")
            elif not load(data) and name.startswith("model"):
                found.problems.append(f"{key}: it holds no weights")


def _metrics(store: Store, run: str, found: Verified) -> int:
    """The last recorded step."""
    key = layout.run_metrics(run)
    if store.head(key) is None:
        return 0
    steps = [0]
    with found.looking_at(key):
        steps += [int(json.loads(line)["step"]) for line in store.read(key).decode().splitlines()]
        found.counts["records"] += len(steps) - 1
        if steps != sorted(set(steps)):
            found.problems.append(f"{key}: its steps do not follow each other")
    return steps[-1]


def _end(store: Store, config: TrainConfig, last: int, found: Verified) -> None:
    key = layout.run_summary(config.run)
    with found.looking_at(key):
        summary = find_summary(config.run, store)
        if summary is None:
            found.notes.append(f"{key}: the run has not ended; it has got as far as step {last} of {config.steps}")
            return
        if last != summary.steps:
            found.problems.append(f"{layout.run_metrics(config.run)}: it ends at step {last}, the run at step {summary.steps}")
    with found.looking_at(layout.export(config.run)):
        load_model(f"run:{config.run}", store)
        found.counts["exports"] += 1
    if config.record_weights == "yes":
        with found.looking_at(layout.run_weights(config.run)):
            _weights(store, config.run, found)


def _weights(store: Store, run: str, found: Verified) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(store.read(layout.run_weights(run))))
    found.counts["weights"] += table.num_rows
    index = table.column("index").to_numpy()
    if len(index) and not (index[1:] > index[:-1]).all():
        found.problems.append(f"{layout.run_weights(run)}: its samples are not in order, each once")
