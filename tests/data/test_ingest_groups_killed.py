"""Groups that die, and groups that work at once: the dataset is that of one process."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from adopt_helpers import captions_of, config_of, noise, numbers, photos
from bad_server import BadServer
from group_helpers import alone, hashes, of_group, parts_of, shared
from ingest_helpers import TrappedStore, contents, folder_config, kill_this_process, numbered, refuse, write_pairs
from source_helpers import write_tar

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest, ingest_group
from drrho_clip.data.sources import shards as shards_module
from drrho_clip.errors import DataError
from drrho_clip.storage import open_store

DRRHO = (sys.executable, "-m", "drrho_pipelines.cli", "ingest")


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, server: BadServer) -> IngestConfig:
    """A table of URLs; some fail always, and some of them are tried three times."""
    paths = [f"image/{number}" for number in range(60)]
    for place, path in ((4, "status/404"), (11, "status/503/a"), (12, "same/1"), (30, "status/503/b"), (47, "same/2")):
        paths.insert(place, path)
    (tmp_path / "t.tsv").write_text(
        "url\tcaption\n" + "".join(f"{url}\tpicture {n}\n" for n, url in enumerate(server.of(*paths)))
    )
    settings = {"dataset": "web", "source": "table", "path": str(tmp_path / "t.tsv"), "workers": 1, "shard_samples": 8}
    limits = {"allow_private": True, "download_backoff": 0.05, "max_bad_fraction": 0.5}
    return IngestConfig.parse({**settings, **limits, "caption_noise": 0.3, "drop_duplicates": "content"})


def killed(config: IngestConfig, folder: Path, write: int) -> None:
    """Run a group, or the last one, in a process that dies at one of its writes."""
    step = ingest_group if config.group else ingest
    child = multiprocessing.get_context("fork").Process(
        target=step, args=(config, TrappedStore(folder, write, kill_this_process))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def writes_of(config: IngestConfig, folder: Path) -> int:
    """How many writes a group, or the last one after all others, needs."""
    store = TrappedStore(folder, 0, refuse)
    (ingest_group if config.group else ingest)(config, store)
    return -store.left


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_group_killed_at_any_write_goes_on_behind_it(
    tmp_path: Path, server: BadServer, config: IngestConfig, share: float
) -> None:
    group = of_group(config, 1, 3)
    expected = alone(config, tmp_path / "alone")
    number = 1 + round(share * (writes_of(group, tmp_path / "count") - 1))
    folder = tmp_path / "store"
    killed(group, folder, number)
    finished = len(parts_of(open_store(folder)))
    server.requests.clear()
    shared(config, open_store(folder), 3)
    assert hashes(open_store(folder)) == expected
    if share >= 0.4:
        assert finished
        assert set(server.requests) < {f"image/{n}" for n in range(60)} | {f"{s}" for s in server.requests if s[0] == "s"}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_the_last_one_killed_at_any_write_goes_on_and_fetches_nothing_twice(
    tmp_path: Path, server: BadServer, config: IngestConfig, share: float
) -> None:
    """Group 2 never ran, so what it would have done is among its work."""
    expected = alone(config, tmp_path / "alone")
    folder, last = tmp_path / "store", of_group(config, 0, 3)
    for place in (tmp_path / "count", folder):
        ingest_group(of_group(config, 1, 3), open_store(place))
    number = 1 + round(share * (writes_of(last, tmp_path / "count") - 1))
    killed(last, folder, number)
    there = parts_of(open_store(folder))
    assert "datasets/web/manifest.json" not in contents(open_store(folder))
    server.requests.clear()
    ingest(last, open_store(folder))
    assert hashes(open_store(folder)) == expected
    if share >= 0.7:  # all was prepared, and shards were being written
        assert len(there) >= 3 * 9
        assert not server.requests


@pytest.mark.parametrize("group", [0, 1])
def test_a_folder_s_groups_killed_at_every_write(tmp_path: Path, group: int) -> None:
    config = folder_config(write_pairs(tmp_path / "pets", numbered(40)), caption_noise=0.4)
    expected = alone(config, tmp_path / "alone")
    one = of_group(config, group, 2)
    for number in range(1, writes_of(one, tmp_path / "count") + 1):
        folder = tmp_path / f"store{number}"
        killed(one, folder, number)
        shared(config, open_store(folder), 2)
        assert hashes(open_store(folder)) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_an_adoption_killed_at_every_write_reads_no_tar_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    for tar in range(4):
        write_tar(tmp_path / f"tars/{tar}.tar", [*photos(numbers(10 * tar, 3)), ("bad.jpg", b"no picture")])
    config = config_of(tmp_path / "tars", adopt=True, max_bad_fraction=0.5, heldout_fraction=0.3)
    expected = alone(config, tmp_path / "alone")
    last = of_group(config, 0, groups)
    writes = writes_of(last, tmp_path / "count")
    assert writes > 4 + 2 * 4
    read: list[str] = []
    paired = shards_module._paired
    monkeypatch.setattr(shards_module, "_paired", lambda path, name: read.append(name) or paired(path, name))
    for number in range(1, writes + 1):
        folder = tmp_path / f"store{number}"
        killed(last, folder, number)
        done = len(parts_of(open_store(folder)))
        read.clear()
        shared(config, open_store(folder), groups)
        assert hashes(open_store(folder)) == expected
        assert len(read) == 4 - done


@pytest.mark.parametrize("first", ["good", "bad"])
def test_an_adoption_that_goes_on_at_bad_tars_is_not_given_up(tmp_path: Path, first: str) -> None:
    good, bad = photos(numbers(0, 9)), [("bad.jpg", noise("bad"))]  # without a caption
    for tar, members in enumerate([good if first == "good" else bad, bad, bad, bad]):
        write_tar(tmp_path / f"tars/{tar}.tar", [(f"{tar}/{name}", content) for name, content in members])
    config = config_of(tmp_path / "tars", adopt=True, max_bad_fraction=0.9)
    if first == "bad":
        with pytest.raises(DataError, match="No usable sample in the first 3 tars"):
            ingest(config, open_store(tmp_path / "store"))
        return
    killed(config, tmp_path / "store", 2)
    assert len(parts_of(open_store(tmp_path / "store"))) == 1
    assert ingest(config, open_store(tmp_path / "store")).total == 9


def test_an_adoption_that_finds_a_tar_altered_begins_anew(tmp_path: Path) -> None:
    for tar in range(2):
        write_tar(tmp_path / f"tars/{tar}.tar", photos(numbers(10 * tar, 3)))
    config = config_of(tmp_path / "tars", adopt=True)
    killed(config, tmp_path / "store", 3)  # both are read
    assert len(parts_of(open_store(tmp_path / "store"))) == 2
    path = tmp_path / "tars/1.tar"
    path.write_bytes(path.read_bytes().replace(b"caption of", b"Caption of"))  # of the same size
    with pytest.raises(DataError, match="1 of 2 shards"):
        ingest(config, open_store(tmp_path / "store"))
    captions = captions_of(open_store(tmp_path / "store"), ingest(config, open_store(tmp_path / "store")))
    assert captions["000000010"] == "Caption of 000000010"


def command(config: IngestConfig, folder: Path, group: int, groups: int) -> list[str]:
    given = {name: value for name, value in config.model_dump(exclude_defaults=True).items() if name != "dataset"}
    asked = given | {"group": group, "groups": groups}
    pairs = [f"{name}={value}" for name, value in asked.items()]
    return [*DRRHO, "-s", str(folder), "-d", config.dataset, *(part for pair in pairs for part in ("--set", pair))]


def test_processes_at_once_of_which_one_is_killed_and_run_again(tmp_path: Path, server: BadServer, config: IngestConfig) -> None:
    expected = alone(config, tmp_path / "alone")
    folder = tmp_path / "store"
    store = open_store(folder)
    server.delay = lambda path: 0.3
    first = [subprocess.Popen(command(config, folder, group, 3), stderr=subprocess.DEVNULL) for group in (1, 2)]
    while not parts_of(store):
        assert any(process.poll() is None for process in first)
        time.sleep(0.02)
    first[0].kill()
    assert first[0].wait() == -signal.SIGKILL
    server.delay = lambda path: 0.05
    last = [subprocess.Popen(command(config, folder, group, 3), stderr=subprocess.DEVNULL) for group in (0, 1)]
    assert [process.wait(timeout=200) for process in (*last, first[1])] == [0, 0, 0]
    assert hashes(store) == expected


def test_all_at_once_and_twice(tmp_path: Path, config: IngestConfig) -> None:
    """Two processes for each group, as where a pod that was given up still lives."""
    expected = alone(config, tmp_path / "alone")
    folder = tmp_path / "store"
    running = [subprocess.Popen(command(config, folder, group, 2), stderr=subprocess.PIPE, text=True) for group in (1, 0, 1, 0)]
    said = [process.communicate(timeout=200)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0], said
    left = {key: value for key, value in hashes(open_store(folder)).items() if not key.endswith(".outcomes")}
    assert left == expected  # two that publish may leave their notes beside the shards, with groups or without


@pytest.mark.parametrize(
    ("group", "groups", "said"),
    [
        (0, 0, "'ingest.groups': Input should be greater than or equal to 1"),
        (2, 2, "group 2 of 2: groups count from 0"),
        (0, 65, "'ingest.groups': Input should be less than or equal to 64"),
    ],
)
def test_numbers_that_cannot_be_end_in_one_line_and_exit_code_2(
    tmp_path: Path, config: IngestConfig, group: int, groups: int, said: str
) -> None:
    done = subprocess.run(command(config, tmp_path / "store", group, groups), capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(open_store(tmp_path / "store")) == {}
