"""Checkpoints in the store: tensors as safetensors, plain values as JSON, and a marker that is written last.

    runs/<run>/checkpoints/step-N/{model,optimiser,objective,weights}.safetensors
                                  COMPLETE.json: step, plain state, size and sha256 of each file

Nothing in a checkpoint can run code. A folder without its marker is no checkpoint; one whose files do not match it is skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from drrho_clip.errors import StorageError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, layout


class Checkpoints:
    """The checkpoints of one run: `save` and `restore` a model, its optimiser and its objective, plus a few plain values."""

    def __init__(self, store: Store, run: str, keep: int) -> None:
        self.store, self.run, self.keep = store, run, keep

    def save(self, step: int, parts: Mapping[str, nn.Module | torch.optim.Optimizer], state: Mapping[str, Any]) -> None:
        """Publish step N: files first, marker last; then drop what `keep` newer checkpoints made superfluous."""
        files = {}
        for name, part in parts.items():
            data = save(_tensors(part))
            self.store.write(f"{layout.checkpoint(self.run, step)}/{name}.safetensors", data)
            files[f"{name}.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        marker = json.dumps({"step": step, "state": dict(state), "files": files}, indent=1)
        self.store.write(layout.checkpoint_marker(self.run, step), marker.encode())
        self._prune()

    def restore(self, parts: Mapping[str, nn.Module | torch.optim.Optimizer]) -> tuple[int, dict[str, Any]]:
        """Load the newest sound checkpoint into `parts`; return its step and state, or (0, {}) where there is none."""
        for step in self.steps():
            try:
                marker, tensors = self._read(step)
            except (StorageError, SafetensorError, ValueError) as error:
                get_logger().warning("checkpoint_unusable", step=step, reason=str(error))
                continue
            for name, part in parts.items():
                _load(part, tensors[name])
            return step, marker["state"]
        return 0, {}

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        return sorted({step for step, key in self._keys() if key.endswith("COMPLETE.json")}, reverse=True)

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        marker = json.loads(self.store.read(layout.checkpoint_marker(self.run, step)))
        tensors = {}
        for name, expected in marker["files"].items():
            data = self.store.read(f"{layout.checkpoint(self.run, step)}/{name}")
            if hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ValueError(f"{name} has {len(data)} bytes and another sha256 than when it was saved")
            tensors[name.removesuffix(".safetensors")] = load(data)
        return marker, tensors

    def _keys(self) -> Iterator[tuple[int, str]]:
        for info in self.store.list(layout.run(self.run) + "/checkpoints/"):
            yield int(info.key.split("/step-")[1].split("/")[0]), info.key

    def _prune(self) -> None:
        old = set(self.steps()[self.keep :])
        keys = sorted((key for step, key in self._keys() if step in old), key=lambda key: not key.endswith("COMPLETE.json"))
        for key in keys:  # the marker goes first, so that a half-deleted checkpoint is none
            self.store.delete(key)


def _tensors(part: nn.Module | torch.optim.Optimizer) -> dict[str, Tensor]:
    if isinstance(part, nn.Module):
        return {name: value.detach().cpu().contiguous().clone() for name, value in part.state_dict().items()}
    state = part.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value).cpu().contiguous()
        for number, values in state.items()
        for name, value in values.items()
    }


def _load(part: nn.Module | torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(dict(tensors))
        return
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, field = name.split(".", 1)
        state.setdefault(int(number), {})[field] = value
    part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
