"""The records of a run in the store: written beside the training, never out of order, and forgotten after the checkpoint."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable

import pytest

from drrho_clip.errors import StorageError
from drrho_clip.observe import MetricSet
from drrho_clip.storage import Store, layout
from drrho_clip.training.history import History


def steps(store: Store) -> list[int]:
    return [json.loads(line)["step"] for line in store.read(layout.run_metrics("run")).decode().splitlines()]


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_records_are_in_the_store_soon_and_without_a_checkpoint(store: Store):
    history = History(store, "run", MetricSet(), every=0.0)
    history.add({"step": 1})
    wait(lambda: store.head(layout.run_metrics("run")) is not None)
    assert steps(store) == [1]
    added = itertools.count(2)

    def shown() -> bool:
        history.add({"step": next(added)})
        return len(steps(store)) > 1

    wait(shown)
    history.flush()
    assert steps(store) == list(range(1, next(added)))


def test_they_are_not_written_more_often_than_asked_for(folder_store: Store):
    others = set(threading.enumerate())
    history = History(folder_store, "run", MetricSet(), every=3600.0)
    history.add({"step": 1})
    wait(lambda: folder_store.head(layout.run_metrics("run")) is not None)
    wait(lambda: set(threading.enumerate()) <= others)
    for step in range(2, 10):
        history.add({"step": step})
    assert steps(folder_store) == [1]
    history.close()
    assert steps(folder_store) == list(range(1, 10))


class Gate:
    """A store whose next write waits until it is let through, or fails."""

    def __init__(self, store: Store) -> None:
        self.store, self.open, self.begun = store, threading.Event(), threading.Event()
        self.failing = False

    def __getattr__(self, name: str):
        return getattr(self.store, name)

    def write(self, key: str, data: bytes) -> None:
        self.begun.set()
        assert self.open.wait(30)
        if self.failing:
            raise StorageError("The store is away")
        self.store.write(key, data)


def test_a_slow_store_slows_no_step_and_never_overwrites_what_is_newer(folder_store: Store):
    gate = Gate(folder_store)
    history = History(gate, "run", MetricSet(), every=0.0)
    history.add({"step": 1})
    assert gate.begun.wait(30)
    history.add({"step": 2})  # the first write is still on its way: nobody waits, and no second one begins
    assert folder_store.head(layout.run_metrics("run")) is None
    threading.Timer(0.2, gate.open.set).start()
    history.flush()  # waits for it
    assert steps(folder_store) == [1, 2]


def test_a_store_that_is_away_is_only_logged_until_the_checkpoint(folder_store: Store, capsys: pytest.CaptureFixture[str]):
    gate = Gate(folder_store)
    gate.failing = True
    gate.open.set()
    history = History(gate, "run", MetricSet(), every=0.0)
    history.add({"step": 1})
    history.close()
    with pytest.raises(StorageError):
        history.flush()
    gate.failing = False
    history.flush()
    assert steps(folder_store) == [1]


def test_what_was_shown_after_the_last_checkpoint_is_forgotten(store: Store):
    history = History(store, "run", MetricSet(), every=0.0)
    for step in (1, 2, 3):
        history.add({"step": step, "samples_total": 10 * step})
    history.close()
    again = History(store, "run", MetricSet(), every=3600.0)
    again.resume(2)
    again.add({"step": 3, "samples_total": 30})
    again.flush()
    assert steps(store) == [1, 2, 3]
    assert again.metrics.registry.get_sample_value("drrho_samples_total") == 30
