"""State with a few numbers per sample of the dataset, on the device or in one file per node: the moving averages u, the weights.

In the shared home a node holds 4 bytes a number, whatever the number of its processes: 8 GB of u for 1e9 samples. The file is
sparse and takes memory as samples are seen: a number is stored as its bits exclusive-or those of the one that stands for never
seen, so that an untouched page, all zero, reads as that. The file has no name once all processes of the node hold it, and so ends
with them. There is no lock: either every process puts the whole global batch, so that each reads what it wrote itself (u), or one
process of the node writes, and the others read behind a collective (weights).
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from drrho_clip import distributed
from drrho_clip.errors import ConfigError, DataError

NUMBER_BYTES = 4  # float32
DEVICE_BYTES = 2**30  # largest state that `auto` keeps on the device
Home = Literal["auto", "device", "shared"]


def in_shared_home(samples: int, width: int, home: Home) -> bool:
    """Whether the state of so many samples is kept once per node, and not on every device."""
    return home == "shared" or (home == "auto" and samples * width * NUMBER_BYTES > DEVICE_BYTES)


class Rows(nn.Module):
    """Float32 numbers [samples, width] behind get and put; `unseen` is what they are until they are put.

    Neither home is part of state_dict: checkpoints take rows (`read_rows`, `write_rows`), so that many processes can share the
    writing. All processes of a group must build it together. `what` names it in errors.
    """

    def __init__(self, samples: int, width: int, *, unseen: float, what: str, home: Home = "auto", folder: str) -> None:
        super().__init__()
        self.samples, self.unseen = samples, unseen
        self.unseen_bits = int(torch.tensor(unseen, dtype=torch.float32).view(torch.int32))
        self.shared = in_shared_home(samples, width, home)
        self.bits = _shared_file(Path(folder), samples, width, what) if self.shared else None
        self.register_buffer("on_device", torch.full((0 if self.shared else samples, width), unseen), persistent=False)

    on_device: Tensor

    @torch.no_grad()
    def get(self, index: Tensor) -> Tensor:
        """Rows [n, width] of these samples, on the device of `index`; DataError where there is no such sample."""
        if index.device.type == "cpu":  # elsewhere a look would wait for the device
            self.check(index)
        if self.bits is None:
            return self.on_device[index]
        return self._decode(self.bits[index.cpu()]).to(index.device)

    def check(self, index: Tensor) -> None:
        """DataError unless all samples of `index` are there: a negative one would be taken for one from the end."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.samples:
            raise DataError(
                f"Samples {int(index.min())} .. {int(index.max())} of a dataset of {self.samples}",
                fix="Build the objective for the dataset that the batches come from.",
            )

    @torch.no_grad()
    def put(self, index: Tensor, value: Tensor) -> None:
        """Set the rows of these samples, each given once; value: [n, width], rounded to the state's own type."""
        if self.bits is None:
            self.on_device[index] = value.to(self.on_device.dtype)
        else:
            self.bits[index.cpu()] = self._encode(value.cpu())

    def clear(self) -> None:
        """Forget all: no sample was seen."""
        if self.bits is None:
            self.on_device.fill_(self.unseen)
        else:
            self.bits.zero_()

    def read_rows(self, start: int, stop: int) -> Tensor:
        """Rows of the samples start to stop - 1, on the CPU."""
        return self.on_device[start:stop].cpu() if self.bits is None else self._decode(self.bits[start:stop])

    @torch.no_grad()
    def write_rows(self, start: int, value: Tensor) -> None:
        """Set the rows of the samples from `start` on; value: [n, width]."""
        if self.bits is None:
            self.on_device[start : start + len(value)] = value.to(self.on_device)
        else:
            self.bits[start : start + len(value)] = self._encode(value.cpu())

    def _encode(self, value: Tensor) -> Tensor:
        value = value.float()
        bits = value.contiguous().view(torch.int32) ^ self.unseen_bits
        return torch.where(value.isnan(), 0, bits) if math.isnan(self.unseen) else bits  # one NaN of the many

    def _decode(self, bits: Tensor) -> Tensor:
        return (bits ^ self.unseen_bits).view(torch.float32)


class UState(Rows):
    """log u [samples, 2] (image, text); NaN = never seen."""

    def __init__(self, samples: int, *, home: Home = "auto", folder: str = "/dev/shm") -> None:
        super().__init__(samples, 2, unseen=math.nan, what="u", home=home, folder=folder)


def _shared_file(folder: Path, samples: int, width: int, what: str) -> Tensor:
    """Map one new file of the node, [samples, width] int32, zero; the node's first process makes it."""
    size = samples * width * NUMBER_BYTES
    run = os.environ.get("TORCHELASTIC_RUN_ID", "run")
    name = distributed.broadcast_object(f"drrho-{what.replace(' ', '-')}-{run}-{os.getpid()}")
    path = folder / str(name)
    leads = distributed.leads_node()
    if not folder.is_dir() or shutil.disk_usage(folder).free < size:
        raise ConfigError(
            f"The {what} of {samples:,} samples takes {size / 1e9:.1f} GB, and {folder} has no room for it",
            where="u_path",
            fix="Set u_path to a folder on a fast local disk, or enlarge the node's shared memory.",
        )
    if leads:
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            file.truncate(size)
    distributed.barrier()
    bits = torch.from_file(str(path), shared=True, size=samples * width, dtype=torch.int32).view(samples, width)
    distributed.barrier()
    if leads:
        path.unlink()
    return bits
