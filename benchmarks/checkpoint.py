"""Checkpoints: how long training stands still for one, of the time that it takes until it is in the store."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drrho_clip.storage import Store, open_store
from drrho_clip.training.checkpoint import Checkpoints
from drrho_pipelines.seaweed import SeaweedServer

WIDTH, LAYERS, REPEATS = 2048, 13, 3  # 218 MB of weights, and twice as much of AdamW's moments


def checkpoint_stall() -> dict[str, Any]:
    """The standstill over the whole, 650 MB into SeaweedFS on this machine; beside it a plain write of as many bytes."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    optimiser = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    with tempfile.TemporaryDirectory(prefix="drrho-checkpoint-") as folder, SeaweedServer(Path(folder)) as server:
        os.environ.update(server.environment)
        store = open_store(server.store_uri)
        stall, whole, size = _save(Checkpoints(store, "run", keep=1), {"model": model, "optimiser": optimiser}, store)
        plain = _write(store, size)
    return {
        "ratio": stall / whole,
        "goal": 0.3,
        "compared": f"a checkpoint of {size / 1e6:.0f} MB: training's standstill over the time until it is in the store",
        "seconds": {"standstill": stall, "whole": whole, "plain write": plain},
    }


def _save(checkpoints: Checkpoints, parts: dict[str, Any], store: Store) -> tuple[float, float, int]:
    """Shortest standstill and whole time in seconds, and the bytes."""
    times = []
    for step in range(1, REPEATS + 1):
        started = time.perf_counter()
        checkpoints.start(step, parts, {})
        stalled = time.perf_counter() - started
        checkpoints.finish()
        times.append((stalled, time.perf_counter() - started))
    size = sum(info.size for info in store.list("runs/run/checkpoints/"))
    return min(stalled for stalled, _ in times), min(whole for _, whole in times), size


def _write(store: Store, size: int) -> float:
    data = os.urandom(size)
    started = time.perf_counter()
    store.write("plain", data)
    return time.perf_counter() - started
