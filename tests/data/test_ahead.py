"""Reading ahead gives what reading on demand gives, in fewer requests, within its limit, and errors where they belong."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ingest_helpers import folder_config, numbered, write_pairs
from test_features import feature_rows, publish_reference

from drrho_clip.data import ahead
from drrho_clip.data.ahead import ReadAhead
from drrho_clip.data.features import FeatureReader
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.errors import DataError
from drrho_clip.storage.local import LocalStore

STEPS = [np.random.default_rng(step).choice(96, size=12, replace=False) for step in range(9)]


class SlowStore(LocalStore):
    """A folder that takes a moment for each read, and keeps what was asked for and how many reads there were at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[str, int, int]] = []
        self.now = self.most = 0
        self.guard = threading.Lock()

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        with self.guard:
            self.now += 1
            self.most = max(self.most, self.now)
            self.ranges.append((key, start, length))
        time.sleep(0.005)
        try:
            return super().read_range(key, start, length, etag=etag)
        finally:
            with self.guard:
                self.now -= 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of 16 samples, and the reference "ref" that goes with them."""
    home = tmp_path_factory.mktemp("ahead")
    store = LocalStore(home / "store")
    manifest = ingest(folder_config(write_pairs(home / "pets", numbered(96)), shard_samples=16, heldout_fraction=0), store)
    publish_reference(store, manifest)
    return home / "store"


@pytest.fixture
def store(folder: Path) -> SlowStore:
    return SlowStore(folder)


@pytest.fixture
def manifest(store: SlowStore) -> Manifest:
    return load_manifest(store, "pets")


def readers(store: SlowStore, manifest: Manifest, cache_bytes: int) -> tuple[SampleReader, FeatureReader]:
    return SampleReader(store, manifest, cache_bytes), FeatureReader(store, "pets", "ref", manifest, cache_bytes)


@pytest.mark.parametrize("cache_bytes", [0, 2**20], ids=["larger than the cache", "fits"])
@pytest.mark.parametrize("limit", [0, 60_000, 2**30])
def test_it_gives_what_reading_on_demand_gives(store: SlowStore, manifest: Manifest, cache_bytes: int, limit: int):
    reader, features = readers(store, manifest, cache_bytes)
    with ReadAhead(reader, features, limit) as window:
        for number, (index, fetched) in enumerate(window.steps(STEPS, lambda _: False)):
            assert index.tolist() == STEPS[number].tolist()
            assert [fetched.sample(i) for i in index.tolist()] == [SampleReader(store, manifest).get(i) for i in index.tolist()]
            assert fetched.features is not None
            expected = np.concatenate([feature_rows(i, 1) for i in index.tolist()])
            assert (fetched.features(index).numpy() == expected).all()
    assert number == len(STEPS) - 1


def test_neighbours_come_in_one_request_and_requests_at_once(store: SlowStore, manifest: Manifest):
    reader, features = readers(store, manifest, 0)
    with ReadAhead(reader, features) as window:
        list(window.steps(STEPS, lambda _: False))  # nothing is waited for
        fetched = window.start([np.arange(96)], lambda _: False)
        [fetched.sample(i) for i in range(96)]
    assert store.most > 3
    shards = [key for key, _, _ in store.ranges if key.endswith(".tar")]
    assert len(shards) <= 2 * len(manifest.shards), "one for each shard of each group, of which there are two"


def test_far_samples_come_alone(store: SlowStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ahead, "GAP_BYTES", 512)  # the padding between two of them
    reader, _ = readers(store, manifest, 0)
    with ReadAhead(reader, None) as window:
        fetched = window.start([np.array([0, 1, 5, 9])], lambda _: False)
        assert [fetched.sample(i).index for i in (9, 0, 5, 1)] == [9, 0, 5, 1]
    assert len(store.ranges) == 3


@pytest.mark.parametrize(("task_bytes", "reads"), [(ahead.TASK_BYTES, 6), (1, 96)], ids=["small", "large"])
def test_small_reads_of_a_shard_are_one_task_and_large_ones_each_their_own(
    store: SlowStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, task_bytes: int, reads: int
):
    monkeypatch.setattr(ahead, "GAP_BYTES", -1)
    monkeypatch.setattr(ahead, "TASK_BYTES", task_bytes)
    reader = SampleReader(store, manifest, cache_bytes=0)
    with ReadAhead(reader, None) as fetching:
        tasks = []
        submit = fetching._pool.submit
        monkeypatch.setattr(fetching._pool, "submit", lambda task: tasks.append(task) or submit(task))
        fetched = fetching.start([np.arange(96)], lambda _: False)
        assert [fetched.sample(index).index for index in range(96)] == list(range(96))
    assert len(store.ranges) == 96
    assert len(tasks) == len(manifest.shards) + reads, "the start of each shard is a task too"


def test_what_is_held_is_not_fetched(store: SlowStore, manifest: Manifest):
    reader, _ = readers(store, manifest, 0)
    with ReadAhead(reader, None) as window:
        for index, fetched in window.steps(STEPS, lambda i: i >= 16):
            [fetched.sample(i) for i in index.tolist() if i < 16]
    assert {key for key, _, _ in store.ranges} == {manifest.shards[0].key}


def test_no_more_than_two_groups_are_asked_for(store: SlowStore, manifest: Manifest):
    """Each of half of the limit: here of two steps."""
    reader, _ = readers(store, manifest, 0)
    mean = sum(shard.bytes for shard in manifest.shards) / manifest.total
    asked: list[int] = []

    def wanted() -> Iterator[np.ndarray]:
        for number, index in enumerate(STEPS):
            asked.append(number)
            yield index

    with ReadAhead(reader, None, limit=int(2 * 2.5 * 12 * mean)) as window:
        for number, _ in enumerate(window.steps(wanted(), lambda _: False)):
            group = number // 2
            assert asked[-1] <= min(8, 2 * group + 4)  # the one that did not fit any more has been looked at


def test_steps_that_need_nothing_are_not_all_looked_at(store: SlowStore, manifest: Manifest):
    reader, _ = readers(store, manifest, 0)
    asked: list[int] = []
    endless = (asked.append(number) or STEPS[0] for number in itertools.count())
    with ReadAhead(reader, None) as window:
        for _, _ in zip(range(40), window.steps(endless, lambda _: True), strict=False):
            pass
    assert 40 < len(asked) <= 40 + 3 * ahead.GROUP_STEPS
    assert store.ranges == []


def test_an_error_belongs_to_the_step_that_needs_the_sample(folder: Path, tmp_path: Path):
    store = SlowStore(tmp_path)
    for info in LocalStore(folder).list():
        store.write(info.key, LocalStore(folder).read(info.key))
    manifest = load_manifest(store, "pets")
    store.write(manifest.shards[3].key, b"another")
    steps = [np.array([0, 20]), np.array([40, 90]), np.array([50, 1]), np.array([2, 3])]  # sample 50 is in shard 3
    for cache_bytes in (0, 2**20):
        reader = SampleReader(store, manifest, cache_bytes)
        with ReadAhead(reader, None) as window:
            stream = window.steps(steps, lambda _: False)
            for _ in range(2):
                index, fetched = next(stream)
                assert [fetched.sample(i).index for i in index.tolist()] == index.tolist()
            _, fetched = next(stream)
            assert fetched.sample(1).index == 1
            with pytest.raises(DataError, match=r"000003\.tar.*altered"):
                fetched.sample(50)
    came = []
    with pytest.raises(DataError, match=r"000003\.tar.*altered"):
        came.extend(sample.index for _, sample in SampleReader(store, manifest).in_order(manifest.shards))
    assert came == list(range(48))


def test_shards_in_order_are_read_ahead(store: SlowStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ahead, "RUN_SAMPLES", 5)
    reader, _ = readers(store, manifest, 0)
    stream = reader.in_order(iter(manifest.shards))
    shard, sample = next(stream)
    assert (shard, sample.index) == (manifest.shards[0], 0)
    assert len(store.ranges) <= ahead.RUNS_AHEAD + 1
    assert [sample.index for _, sample in stream] == list(range(1, 96))
    assert store.most > 3
    assert [sample.index for sample in reader.shard(manifest.shards[2])] == list(range(32, 48))


def test_reading_may_stop_early(store: SlowStore, manifest: Manifest):
    stream = readers(store, manifest, 0)[0].in_order(manifest.shards)
    next(stream)
    stream.close()
    before = threading.active_count()
    with ReadAhead(*readers(store, manifest, 0)) as window:
        next(window.steps(STEPS, lambda _: False))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def peak_of_reading(root: str, limit: int, queue: multiprocessing.Queue[int]) -> None:
    """Put the bytes by which the peak of this process rises while a worker's steps are read."""
    store = LocalStore(root)
    reader = SampleReader(store, load_manifest(store, "large"), cache_bytes=0)
    reader.get(0)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is held now
    before = memory_line("VmRSS")
    steps = [np.arange(first, first + 4) for first in range(0, 80, 4)]
    with ReadAhead(reader, None, limit) as window:
        for index, fetched in window.steps(steps, lambda _: False):
            assert sum(len(fetched.sample(i).image) for i in index.tolist()) > 10**6
            time.sleep(0.02)  # the threads get ahead
    queue.put(memory_line("VmHWM") - before)


def memory_line(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read as Linux shows it")
def test_the_memory_of_a_process_is_bounded(tmp_path: Path):
    """By far less than the 22 MB that are read: two groups of 2 MiB, and what 16 threads are just receiving."""
    store = LocalStore(tmp_path / "store")
    ingest(folder_config(write_pairs(tmp_path / "in", numbered(80), side=300), dataset="large", heldout_fraction=0), store)
    context = multiprocessing.get_context("spawn")  # a forked one would use up what this process has freed
    grown: dict[int, int] = {}
    for limit in (4 * 2**20, 2**30):
        queue: multiprocessing.Queue[int] = context.Queue()
        child = context.Process(target=peak_of_reading, args=(str(store.root), limit, queue))
        child.start()
        grown[limit] = queue.get(timeout=60)
        child.join()
    assert grown[4 * 2**20] < 12 * 2**20 < 14 * 2**20 < grown[2**30]
