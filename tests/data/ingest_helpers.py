"""Small real folders of pictures, and stores that fail or stop the process at a chosen write."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.manifest import Manifest, Shard, dataset_id
from drrho_clip.errors import StorageError
from drrho_clip.storage import Store
from drrho_clip.storage.local import LocalStore


def write_pairs(folder: Path, names: Iterable[str], *, side: int = 16) -> Path:
    """Write a picture of noise and the caption "a picture of <name>" for every name; equal names give equal bytes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{path}.png")
        Path(f"{path}.txt").write_text(f"a picture of {name}", encoding="utf-8")
    return folder


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"cat_a-{number}" for number in range(first, first + count)]


def folder_config(folder: Path, **settings: Any) -> IngestConfig:
    defaults: dict[str, Any] = {"dataset": "pets", "source": "folder", "path": str(folder), "shard_samples": 8, "workers": 1}
    return IngestConfig.parse(defaults | settings)


def contents(store: Store, prefix: str = "") -> dict[str, bytes]:
    return {info.key: store.read(info.key) for info in store.list(prefix)}


def plan(counts: Iterable[int], split: str = "train") -> list[Shard]:
    """Shards of these sizes that exist nowhere."""
    shards: list[Shard] = []
    for number, count in enumerate(counts):
        base = shards[-1].base + shards[-1].count if shards else 0
        shards.append(Shard(key=f"{number:06d}.tar", etag="e", sha256="s", bytes=1, count=count, base=base, split=split))
    return shards


def manifest_of(shards: Iterable[Shard], *, name: str = "pets", version: int = 1) -> Manifest:
    listed = tuple(shards)
    return Manifest(name=name, version=version, id=dataset_id(listed), shards=listed)


class TrappedStore(LocalStore):
    """A folder whose `number`-th write (from 1) springs a trap before anything is written."""

    def __init__(self, root: str | os.PathLike[str], number: int, trap: Callable[[], None]) -> None:
        super().__init__(root)
        self.left, self.trap = number, trap

    def _put(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.trap()
        return super()._put(*args, **kwargs)


def refuse() -> None:
    raise StorageError("The upload was refused")


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
