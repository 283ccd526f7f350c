"""Who may train a run: one process at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from drrho_clip.errors import LeaseLost, TrainingError
from drrho_clip.storage import Store, layout
from drrho_clip.storage.lease import KeptLease, Lease, renew_lease, take_lease
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.ownership import take_run, this_process

KEY = layout.run_lease("run")


def ended_process() -> str:
    """The name of a process of this place that is no more."""
    code = "from drrho_clip.training.ownership import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_that_was_killed_is_not_waited_for(folder_store: Store):
    take_lease(folder_store, KEY, ended_process(), 3600)
    with take_run(folder_store, "run", this_process()) as lease:
        lease.check()


@pytest.mark.parametrize("place", ["elsewhere", ""])
def test_the_same_number_elsewhere_is_another_process(place: str, folder_store: Store):
    """It is believed to live until its lease runs out."""
    holder = ended_process()
    take_lease(folder_store, KEY, holder.rpartition("@")[0] + (f"@{place}" if place else ""), 2.0)
    began = time.monotonic()
    take_run(folder_store, "run", this_process())
    assert time.monotonic() - began > 1.0


def test_a_run_that_somebody_trains_is_refused(folder_store: Store):
    take_lease(folder_store, KEY, "other/1@elsewhere", 3600)
    sign_of_life = threading.Timer(1.0, renew_lease, (folder_store, KEY, "other/1@elsewhere"))
    sign_of_life.start()
    with pytest.raises(TrainingError, match="Run 'run' is being trained by 'other/1@elsewhere'"):
        take_run(folder_store, "run", this_process())
    sign_of_life.join()


def test_whoever_was_taken_for_dead_learns_of_it(folder_store: Store):
    with take_run(folder_store, "run", "me", seconds=0.3) as lease:
        lease.check()
        taken = Lease(holder="other", seconds=60, expires=time.time() + 60)
        folder_store.write(KEY, taken.model_dump_json().encode())
        with pytest.raises(LeaseLost, match="'other' does"):
            check_for_a_minute(lease)


def check_for_a_minute(lease: KeptLease) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        lease.check()
        time.sleep(0.05)


def test_a_training_that_lost_its_run_publishes_nothing(scenes_store: Store):
    """Its lease goes to another in the middle: no checkpoint, no export, and the error says who has it."""
    small = {"architecture": "drrho-nano", "batch_size": 16, "samples": 16 * 50_000, "warmup_steps": 0, "checkpoint_steps": 50}
    config = TrainConfig.parse({"run": "run", "dataset": "scenes", "method": "openclip", **small})

    def steal() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not any("COMPLETE" in info.key for info in scenes_store.list("runs/run/")):
            time.sleep(0.05)
        taken = Lease(holder="other", seconds=600, expires=time.time() + 600)
        scenes_store.write(KEY, taken.model_dump_json().encode())

    thief = threading.Thread(target=steal)
    thief.start()
    with pytest.raises(TrainingError, match="'other' does"):
        train(config, scenes_store)
    thief.join()
    assert scenes_store.head(layout.run_summary("run")) is None
    assert Lease.model_validate_json(scenes_store.read(KEY)).holder == "other"


def test_a_finished_run_is_given_back(scenes_store: Store):
    small = {"architecture": "drrho-nano", "batch_size": 16, "samples": 32, "warmup_steps": 0}
    train(TrainConfig.parse({"run": "run", "dataset": "scenes", "method": "openclip", **small}), scenes_store)
    assert Lease.model_validate_json(scenes_store.read(KEY)).holder == ""
