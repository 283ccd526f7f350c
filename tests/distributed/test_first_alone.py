"""What one process does alone may take longer than the others would wait for it in a collective."""

from __future__ import annotations

import time
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from drrho_clip import distributed

WAITED, WORKED = 4.0, 8.0


def work_alone(rank: int, folder: str) -> None:
    Path(folder, f"here-{rank}").touch()
    while len(list(Path(folder).glob("here-*"))) < 2:  # a process may take long to start
        time.sleep(0.01)
    timeout = timedelta(seconds=WAITED)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timeout)

    context: ContextVar[str] = ContextVar("context")
    context.set("run")

    def work() -> None:
        assert context.get() == "run"  # what every line of the log says comes from there
        time.sleep(WORKED)
        Path(folder, f"done-by-{rank}").touch()

    distributed.first_alone(work)
    assert Path(folder, "done-by-0").exists()  # nobody leaves before
    dist.destroy_process_group()


def fail_alone(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)

    def work() -> None:
        raise ValueError("no room")

    distributed.first_alone(work)
    dist.destroy_process_group()


def test_the_others_wait_longer_than_their_timeout(tmp_path: Path):
    mp.spawn(work_alone, args=(str(tmp_path),), nprocs=2)
    assert not (tmp_path / "done-by-1").exists()


def test_its_error_is_that_of_the_first(tmp_path: Path):
    with pytest.raises(mp.ProcessRaisedException, match=r"(?s)Process 0 terminated.*no room"):
        mp.spawn(fail_alone, args=(str(tmp_path),), nprocs=2)


def test_one_process_does_it_itself():
    done: list[int] = []
    distributed.first_alone(lambda: done.append(1))
    assert done == [1]
