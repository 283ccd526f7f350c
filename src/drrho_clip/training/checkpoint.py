"""Checkpoints in the store: tensors as safetensors, plain values as JSON, and a marker that is written last.

    runs/<run>/checkpoints/step-N/{model,optimiser,objective}.safetensors
                                  {u,weights}.<first>.safetensors: rows from sample <first> on, in slices that the ranks share
                                  COMPLETE.json: step, plain state, size and sha256 of each file

Nothing in a checkpoint can run code. A folder without its marker is no checkpoint; one whose files do not match it is skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from copy import deepcopy
from functools import partial
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from drrho_clip import distributed
from drrho_clip.errors import StorageError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, layout

SLICE_ROWS = 2**24  # rows of one file: 128 MiB of u
Files = dict[str, dict[str, Any]]


class ByRows(Protocol):
    """State with one row per sample, the same on every rank."""

    samples: int

    def read_rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop - 1, on the CPU."""

    def write_rows(self, start: int, value: Tensor) -> None:
        """Set the rows from `start` on."""

    def clear(self) -> None:
        """Set all rows to what they are in a new run."""


class Checkpoints:
    """The checkpoints of one run: of a model, its optimiser and its objective, plus a few plain values.

    `by_rows` is state of the size of the dataset. Its slices do not depend on the number of ranks: any other number can resume.
    One is written by `start` and `finish`; between them training goes on while the files are on their way.
    """

    def __init__(self, store: Store, run: str, keep: int, keep_every: int = 0) -> None:
        self.store, self.run, self.keep, self.keep_every = store, run, keep, keep_every
        self._upload: _Upload | None = None

    def start(
        self,
        step: int,
        parts: Mapping[str, nn.Module | torch.optim.Optimizer],
        state: Mapping[str, Any],
        by_rows: Mapping[str, ByRows] | None = None,
    ) -> None:
        """Copy everything as it is now, and begin to write it; all ranks call it, and share the files.

        A checkpoint that is still on its way is finished first: one at a time takes memory.
        """
        self.finish()
        own = {
            name: save(tensors())
            for number, (name, tensors) in enumerate(_files(parts, by_rows or {}))
            if number % distributed.world_size() == distributed.rank()
        }
        self._upload = _Upload(self.store, self.run, step, deepcopy(dict(state)), own)

    @property
    def started(self) -> bool:
        """Whether a checkpoint is to be finished; the same on every rank."""
        return self._upload is not None

    @property
    def uploading(self) -> bool:
        """Whether files of this rank are still on their way."""
        return self._upload is not None and not self._upload.done()

    def finish(self) -> int:
        """Wait for the files of every rank and publish what was started, marker last; return its step, 0 where nothing was.

        Then drop all but the newest `keep` and the multiples of `keep_every`.
        All ranks call it. StorageError where the store did not take a file.
        """
        if self._upload is None:
            return 0
        upload, self._upload = self._upload, None
        files: Files = {}
        for of_rank in distributed.gather_objects(upload.result()):
            files |= of_rank
        if distributed.rank() == 0:
            marker = json.dumps({"step": upload.step, "state": upload.state, "files": files}, indent=1)
            self.store.write(layout.checkpoint_marker(self.run, upload.step), marker.encode())
            self._prune()
        return upload.step

    def restore(
        self, parts: Mapping[str, nn.Module | torch.optim.Optimizer], by_rows: Mapping[str, ByRows] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Load these parts of the newest sound checkpoint; return its step and state, or (0, {}) where there is none."""
        for step in self.steps():
            try:
                marker, tensors = self._read(step, parts, by_rows or {})
            except (StorageError, SafetensorError, ValueError) as error:
                get_logger().warning("checkpoint_unusable", step=step, reason=str(error))
                for rows in (by_rows or {}).values():
                    rows.clear()
                continue
            for name, part in parts.items():
                _load(part, tensors[name])
            return step, marker["state"]
        return 0, {}

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        return sorted({step for step, key in self._keys() if key.endswith("COMPLETE.json")}, reverse=True)

    def _read(
        self, step: int, parts: Collection[str], by_rows: Mapping[str, ByRows]
    ) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Marker and tensors of the parts; rows are set at once, one slice in memory at a time. Nothing else is read."""
        marker = json.loads(self.store.read(layout.checkpoint_marker(self.run, step)))
        tensors = {}
        for name, expected in marker["files"].items():
            part, _, first = name.removesuffix(".safetensors").partition(".")
            if part not in (by_rows if first else parts):
                continue
            data = self.store.read(f"{layout.checkpoint(self.run, step)}/{name}")
            if hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ValueError(f"{name} has {len(data)} bytes and another sha256 than when it was saved")
            if first:
                by_rows[part].write_rows(int(first), load(data)["rows"])
            else:
                tensors[part] = load(data)
        return marker, tensors

    def _keys(self) -> Iterator[tuple[int, str]]:
        for info in self.store.list(layout.run(self.run) + "/checkpoints/"):
            yield int(info.key.split("/step-")[1].split("/")[0]), info.key

    def _prune(self) -> None:
        found = list(self._keys())
        complete = sorted({step for step, key in found if key.endswith("COMPLETE.json")}, reverse=True)
        old = {step for step in complete[self.keep :] if not self.keep_every or step % self.keep_every}
        old |= {step for step, _ in found if step < complete[0]} - set(complete)  # begun by a process that died
        keys = sorted((key for step, key in found if step in old), key=lambda key: not key.endswith("COMPLETE.json"))
        for key in keys:  # the marker goes first, so that a half-deleted checkpoint is none
            self.store.delete(key)


class _Upload:
    """The files of one rank on their way into the store, in a thread."""

    def __init__(self, store: Store, run: str, step: int, state: dict[str, Any], contents: dict[str, bytes]) -> None:
        self.step, self.state = step, state
        self._store, self._folder = store, layout.checkpoint(run, step)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written = self._pool.submit(copy_context().run, self._write, contents)
        self._pool.shutdown(wait=False)

    def done(self) -> bool:
        """Whether all are written, or one could not be."""
        return self._written.done()

    def result(self) -> Files:
        """Wait for the end; size and sha256 of each file. StorageError."""
        return self._written.result()

    def _write(self, contents: dict[str, bytes]) -> Files:
        files: Files = {}
        while contents:  # each is let go when it is written
            name, data = contents.popitem()
            self._store.write(f"{self._folder}/{name}", data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return files


def _files(
    parts: Mapping[str, nn.Module | torch.optim.Optimizer], by_rows: Mapping[str, ByRows]
) -> Iterator[tuple[str, Callable[[], dict[str, Tensor]]]]:
    """Name of each file of a checkpoint, and what makes its tensors."""
    for name, part in parts.items():
        yield f"{name}.safetensors", partial(_tensors, part)
    for name, rows in by_rows.items():
        for start in range(0, rows.samples, SLICE_ROWS):
            yield f"{name}.{start:012d}.safetensors", partial(_slice, rows, start)


def _slice(rows: ByRows, start: int) -> dict[str, Tensor]:
    return {"rows": rows.read_rows(start, min(start + SLICE_ROWS, rows.samples))}


def _tensors(part: nn.Module | torch.optim.Optimizer) -> dict[str, Tensor]:
    if isinstance(part, nn.Module):
        return {name: value.detach().cpu().contiguous().clone() for name, value in part.state_dict().items()}  # some are tied
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
