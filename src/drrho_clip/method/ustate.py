"""u: one pair of moving averages per sample of the dataset, on the device or in one file per node.

A node holds 8 bytes a sample in the shared home, whatever the number of its processes: 8 GB for 1e9 samples. The file is sparse
and takes memory as samples are seen: a number is stored as its bits exclusive-or those of NaN, so that an untouched page, all
zero, reads as never seen. Every process puts the whole global batch, so all homes of a run always hold the same values, and a
process reads what it wrote itself: no lock is needed. The file has no name once all processes of the node hold it, and so ends
with them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from drrho_clip import distributed
from drrho_clip.errors import ConfigError

NEVER_SEEN = 0x7FC00000  # the bits of a float32 NaN
ROW_BYTES = 8  # image and text side, float32
DEVICE_BYTES = 2**30  # largest state that `auto` keeps on the device


class UState(nn.Module):
    """log u [samples, 2] (image, text) behind get and put; NaN = never seen.

    Neither home is part of state_dict: checkpoints take u by rows (`read_rows`, `write_rows`), so that many processes can share
    the writing. All processes of a group must build it together.
    """

    def __init__(self, samples: int, *, home: Literal["auto", "device", "shared"] = "auto", folder: str = "/dev/shm") -> None:
        super().__init__()
        self.samples = samples
        self.shared = home == "shared" or (home == "auto" and samples * ROW_BYTES > DEVICE_BYTES)
        self.bits = _shared_file(Path(folder), samples) if self.shared else None
        size = 0 if self.shared else samples
        self.register_buffer("on_device", torch.full((size, 2), torch.nan), persistent=False)

    on_device: Tensor

    @torch.no_grad()
    def get(self, index: Tensor) -> Tensor:
        """Log u [n, 2] of these samples, on the device of `index`."""
        if self.bits is None:
            return self.on_device[index]
        return _decode(self.bits[index.cpu()]).to(index.device)

    @torch.no_grad()
    def put(self, index: Tensor, value: Tensor) -> None:
        """Set log u of these samples; value: [n, 2], rounded to the state's own type."""
        if self.bits is None:
            self.on_device[index] = value.to(self.on_device.dtype)
        else:
            self.bits[index.cpu()] = _encode(value.cpu())

    def clear(self) -> None:
        """Forget all: no sample was seen."""
        if self.bits is None:
            self.on_device.fill_(torch.nan)
        else:
            self.bits.zero_()

    def read_rows(self, start: int, stop: int) -> Tensor:
        """Log u of the samples start to stop - 1, on the CPU."""
        return self.on_device[start:stop].cpu() if self.bits is None else _decode(self.bits[start:stop])

    @torch.no_grad()
    def write_rows(self, start: int, value: Tensor) -> None:
        """Set log u of the samples from `start` on; value: [n, 2]."""
        if self.bits is None:
            self.on_device[start : start + len(value)] = value.to(self.on_device)
        else:
            self.bits[start : start + len(value)] = _encode(value.cpu())


def _encode(value: Tensor) -> Tensor:
    value = value.float()
    return torch.where(value.isnan(), 0, value.contiguous().view(torch.int32) ^ NEVER_SEEN)


def _decode(bits: Tensor) -> Tensor:
    return (bits ^ NEVER_SEEN).view(torch.float32)


def _shared_file(folder: Path, samples: int) -> Tensor:
    """Map one new file of the node, [samples, 2] int32, zero; the node's first process makes it."""
    size = samples * ROW_BYTES
    run = os.environ.get("TORCHELASTIC_RUN_ID", "run")
    name = distributed.broadcast_object(f"drrho-u-{run}-{os.getpid()}")
    path = folder / str(name)
    leads = distributed.leads_node()
    if not folder.is_dir() or shutil.disk_usage(folder).free < size:
        raise ConfigError(
            f"u of {samples:,} samples takes {size / 1e9:.1f} GB, and {folder} has no room for it",
            where="u_path",
            fix="Set u_path to a folder on a fast local disk, or enlarge the node's shared memory.",
        )
    if leads:
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            file.truncate(size)
    distributed.barrier()
    bits = torch.from_file(str(path), shared=True, size=samples * 2, dtype=torch.int32).view(samples, 2)
    distributed.barrier()
    if leads:
        path.unlink()
    return bits
