"""Every collective of the project; all of them work at world size 1 without a process group."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

HEARD_SECONDS = 1.0  # between two words of a process that the others wait for


def rank() -> int:
    """Rank of this process, 0 outside a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the group, 1 outside a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_device() -> torch.device:
    """The device of this process: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def process_group(timeout_seconds: float = 300.0) -> Iterator[None]:
    """Join the group that torchrun describes in the environment (nccl on GPUs, else gloo), and leave it at the end.

    A process that waits longer than the timeout for another one, to join or in a collective, gives up with an error.
    """
    if "RANK" not in os.environ:
        yield
        return
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds))
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the equally shaped tensors [n, ...] of all ranks in rank order: [world_size * n, ...], without gradient."""
    tensor = tensor.detach().contiguous()
    if world_size() == 1:
        return tensor
    out = tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(out, tensor)
    return out


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks (a new tensor)."""
    tensor = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def largest(numbers: Sequence[int], device: torch.device) -> list[int]:
    """The largest of all ranks at each place of `numbers`; every rank gets the same answer."""
    if world_size() == 1:
        return list(numbers)
    values = torch.tensor(numbers, device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return [int(value) for value in values.tolist()]


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process ended or did not answer: the cause is elsewhere."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def broadcast_object(value: object) -> object:
    """Give every rank the value of rank 0 (small plain objects)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: object) -> list[Any]:
    """The values of all ranks in rank order (small plain objects)."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def leads_node() -> bool:
    """Whether this process is the first of its node; where no launcher says, the group is one node."""
    return int(os.environ.get("LOCAL_RANK", rank())) == 0


def node_ranks() -> range:
    """Ranks of the processes of this node, as the launcher says; without one the group is one node."""
    first = rank() - int(os.environ.get("LOCAL_RANK", rank()))
    return range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", world_size())))


def first_alone(work: Callable[[], None]) -> None:
    """Do `work`, which takes part in no collective, on rank 0, while the others wait however long it takes.

    They hear of it every second, so that the timeout of the group is for a rank 0 that is lost, not for one that is busy.
    """
    if world_size() == 1:
        work()
        return
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(copy_context().run, work) if rank() == 0 else None  # its logs say run and rank
        while not broadcast_object(done is None or bool(wait([done], HEARD_SECONDS).done)):
            pass
    if done is not None:
        done.result()


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
