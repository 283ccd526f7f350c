"""What the processes of one pod serve: one endpoint, a series for each rank and meaning, and nothing that grows."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.client import HTTPException

import pytest

from drrho_clip.data.sources.base import CLASSES, REASONS
from drrho_clip.errors import TrainingError
from drrho_clip.observe import METRICS, MetricSet, metrics_of
from drrho_clip.observe.metrics import PREFIX, SKIPPED
from drrho_clip.storage import Store
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.launch import run_locally


def settings(port: int, **changed: object) -> TrainConfig:
    return TrainConfig.parse(
        {
            "run": "served", "dataset": "scenes", "method": "drrho", "reference": "ref", "architecture": "drrho-nano",
            "batch_size": 32, "samples": 32 * 20, "warmup_steps": 2, "temperature": 0.1, "log_steps": 1, "metrics_port": port,
            **changed,
        }
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Scraper:
    """Reads /metrics again and again while `launch` trains; keeps the pages."""

    def __init__(self, port: int, launch: Callable[[list[str]], None]) -> None:
        self.port, self.launch = port, launch
        self.pages: list[list[str]] = []
        self.ended = threading.Event()

    def __call__(self, arguments: list[str]) -> None:
        thread = threading.Thread(target=self._read)
        thread.start()
        try:
            self.launch(arguments)
        finally:
            self.ended.set()
            thread.join()

    def _read(self) -> None:
        while not self.ended.is_set():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                    page = answer.read().decode()
                if answer.headers["Content-Length"]:  # else the process ended in the middle of the headers
                    self.pages.append([line for line in page.splitlines() if line.startswith(PREFIX)])
            except (OSError, HTTPException):
                time.sleep(0.05)  # not there yet, or gone, perhaps in the middle of a page


def names(page: list[str]) -> Counter[str]:
    return Counter(line.rpartition(" ")[0] for line in page if "_created" not in line)


def test_two_ranks_with_data_workers_have_one_series_each(scenes_store: Store):
    port = free_port()
    scraper = Scraper(port, partial(run_locally, processes=2))
    train(settings(port, workers=2), scenes_store, launch=scraper)
    assert len(scraper.pages) > 3
    last = scraper.pages[-1]
    for meaning in ("rank_data_wait_seconds", "rank_device_memory_bytes"):
        assert [name for name in names(last) if meaning in name] == [f'{PREFIX}{meaning}{{rank="{rank}"}}' for rank in (0, 1)]
    assert names(last)[f"{PREFIX}loss"] == 1
    assert names(scraper.pages[0]) == names(last), "no series comes or goes while it trains"
    assert max(names(last).values()) == 1
    # a page may be read while values change: in most, the run's wait is that of its slowest rank
    assert any(value(page, "data_wait_seconds") == max(waits(page)) > 0 for page in scraper.pages)


def value(page: list[str], name: str) -> float:
    return next(float(line.split()[1]) for line in page if line.startswith(f"{PREFIX}{name} "))


def waits(page: list[str]) -> list[float]:
    return [float(line.split()[1]) for line in page if line.startswith(f"{PREFIX}rank_data_wait_seconds")]


def test_the_first_process_of_another_pod_shows_its_own_ranks_alone(monkeypatch: pytest.MonkeyPatch):
    from drrho_clip import distributed

    monkeypatch.setattr(distributed, "rank", lambda: 5)
    monkeypatch.setattr(distributed, "world_size", lambda: 12)
    for name, value in {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert list(distributed.node_ranks()) == [4, 5, 6, 7]
    found = {name for name, _ in _samples(MetricSet(metrics_of("rank", ranks=distributed.node_ranks())))}
    assert found == {"rank_data_wait_seconds", "rank_device_memory_bytes"}


def _samples(metrics: MetricSet) -> list[tuple[str, dict[str, str]]]:
    return [
        (sample.name.removeprefix(PREFIX), sample.labels) for family in metrics.registry.collect() for sample in family.samples
    ]


def test_every_label_has_a_closed_list_of_values():
    for metric in METRICS:
        assert all(values for values in metric.labels.values()), metric.name
    assert {name for members in CLASSES.values() for name in members} == set(REASONS)
    assert sum(map(len, CLASSES.values())) == len(REASONS)
    assert set(CLASSES) == set(SKIPPED)
    series = [sample for sample in _samples(MetricSet(metrics_of("run", "rank", ranks=range(8)))) if "_created" not in sample[0]]
    assert len(series) < 100


def test_a_taken_port_is_said_and_training_goes_on(scenes_store: Store):
    said = []

    def listened(arguments: list[str]) -> None:
        process = subprocess.run([sys.executable, "-m", "drrho_clip.training", *arguments], capture_output=True, text=True)
        said.append(process.stderr)
        assert process.returncode == 0

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        train(settings(taken.getsockname()[1], samples=32 * 3), scenes_store, launch=listened)
    assert "metrics_not_served" in said[0]
    assert '"metrics_served"' not in said[0]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_not_finite_is_seen_before_the_process_ends(scenes_store: Store, processes: int):
    port = free_port()
    scraper = Scraper(port, partial(run_locally, processes=processes))
    broken = settings(port, method="openclip", learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match="not finite"):
        train(broken, scenes_store, launch=scraper)
    assert re.search(rf"^{PREFIX}nonfinite_steps_total 1\.0$", "\n".join(scraper.pages[-1]), re.MULTILINE)


def test_nobody_waits_for_a_scrape_where_nothing_is_served():
    assert MetricSet().await_scrape(3600) is False
