"""Ingest of tables of URLs from a real server: outcomes, growth, retries, duplicates, kills and memory."""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bad_server import BadServer
from ingest_helpers import TrappedStore, contents, kill_this_process, refuse

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.errors import ConfigError, DataError, StorageError
from drrho_clip.storage import Store, open_store


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


def write_table(path: Path, urls: Iterable[str], sha256: dict[str, str] | None = None) -> Path:
    rows = [f"{url}\tcaption {number}\t{(sha256 or {}).get(url, '')}\n" for number, url in enumerate(urls)]
    path.write_text("url\tcaption\tsha256\n" + "".join(rows))
    return path


def config_for(path: Path, **settings: Any) -> IngestConfig:
    defaults = {
        "dataset": "web",
        "source": "table",
        "path": str(path),
        "workers": 1,
        "shard_samples": 10,
        "max_bad_fraction": 0.9,
    }
    return IngestConfig.parse({**defaults, "allow_private": True, "download_backoff": 0.05, **settings})


def outcomes(store: Store) -> dict[str, dict[str, Any]]:
    """The last outcome of every row."""
    tables = [
        pq.read_table(io.BytesIO(data)).to_pylist() for _, data in sorted(contents(store, "datasets/web/outcomes/").items())
    ]
    return {row["key"]: row for table in tables for row in table}


def states(store: Store) -> list[str]:
    found = outcomes(store)
    return [found[key]["state"] for key in sorted(found)]


def samples(store: Store) -> dict[str, Any]:
    manifest = load_manifest(store, "web")
    reader = SampleReader(store, manifest)
    return {str(sample.meta["key"]): sample for sample in map(reader.get, range(manifest.total))}


PATHS = (
    *(f"image/{number}" for number in range(20)),
    *("status/404", "status/403", "html/a", "once/500/b", "status/503", "same/1", "same/2", "robots/c", "short/d"),
)


def test_every_row_ends_in_one_state(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    urls = [*server.of(*PATHS), "nowhere"]
    manifest = ingest(config_for(write_table(tmp_path / "t.tsv", urls), download_rounds=2), folder_store)
    expected = ["ok"] * 20 + ["http_gone", "http_denied", "not_an_image", "ok", "http_busy", "ok", "ok", "robots"]
    found = states(folder_store)
    assert found[:-2] == expected
    assert found[-2] in ("connection", "truncated")
    assert found[-1] == "bad_url"
    rows = outcomes(folder_store)
    for key, sample in samples(folder_store).items():
        assert rows[key]["index"] == sample.index
        assert rows[key]["url"] == sample.meta["url"] == urls[int(key)]
        assert rows[key]["sha256"] == sample.meta["source_sha256"]
        assert sample.caption == f"caption {int(key)}"
    assert sum(row["state"] == "ok" for row in rows.values()) == manifest.total == 23
    assert sum(failure.count for failure in manifest.failed.values()) == len(urls) - 23
    once, gone = rows["000000023"], rows["000000020"]
    assert (once["attempts"], once["status"], gone["attempts"], gone["status"]) == (2, 200, 1, 404)
    assert "404" in gone["detail"]
    assert [row["key"] for row in rows.values() if row["duplicate"]] == ["000000026"]
    assert manifest.duplicates == {"content": 1}
    assert not [key for key in contents(folder_store) if key.endswith(".outcomes")]


def test_the_order_of_arrival_changes_nothing(tmp_path: Path, server: BadServer) -> None:
    """The same answers at random times, with other numbers of connections and workers: the same bytes everywhere."""
    stores = []
    paths = [*(f"image/{number}" for number in range(40)), *("status/404", "status/503", "same/1", "same/2", "html/a")]
    random.Random(1).shuffle(paths)
    for number in range(3):
        delays = random.Random(number)
        most = 0.1 if number else 0.0
        server.delay = lambda path, delays=delays, most=most: delays.uniform(0, most)
        server.requests.clear()
        store = open_store(tmp_path / f"store{number}")
        once = [f"once/500/{n}" for n in range(6)]
        urls = server.of(*paths[:20], *once, *paths[20:])
        config = config_for(
            write_table(tmp_path / "t.tsv", urls), workers=1 + number % 2, download_host_connections=3 + 5 * number, image_size=12
        )
        ingest(config, store)
        stores.append(contents(store))
    assert stores[0] == stores[1] == stores[2]


def test_only_what_may_still_come_is_tried_again(tmp_path: Path, server: BadServer, store: Store) -> None:
    """R07: half of 20 answer 503 at first, 2 are always gone; keys and shards that are there stay as they are."""
    paths = [f"ailing/503/{n}" if n % 2 else f"image/{n}" for n in range(20)] + ["status/404", "status/410"]
    config = config_for(write_table(tmp_path / "t.tsv", server.of(*paths)), download_rounds=1)
    first = ingest(config, store)
    assert (first.version, first.total) == (1, 10)
    assert {reason: failure.count for reason, failure in first.failed.items()} == {"http_busy": 10, "http_gone": 2}
    before = contents(store, "datasets/web/shards/")
    server.requests.clear()

    assert ingest(config, store) == first
    assert not server.requests
    again = config.model_copy(update={"retry_failed": True})
    assert ingest(again, store) == first
    assert server.requests == {path: 1 for path in paths if "ailing" in path}
    assert states(store).count("http_busy") == 10

    server.healed = True
    server.requests.clear()
    second = ingest(again, store)
    assert server.requests == {path: 1 for path in paths if "ailing" in path}
    assert (second.version, second.total) == (2, 20)
    assert second.shards[: len(first.shards)] == first.shards
    assert contents(store, "datasets/web/shards/").items() >= before.items()
    assert {reason: failure.count for reason, failure in second.failed.items()} == {"http_gone": 2}
    assert states(store) == ["ok"] * 20 + ["http_gone"] * 2
    server.requests.clear()
    assert ingest(again, store) == second
    assert not server.requests


def test_a_state_that_changes_without_a_sample_is_kept(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    table = write_table(tmp_path / "t.tsv", server.of("image/a", "once/503/x", "status/503"))
    ingest(config_for(table, download_rounds=1), folder_store)
    write_table(tmp_path / "t.tsv", server.of("image/a", "status/404/x", "status/503"))
    manifest = ingest(config_for(table, download_rounds=1, retry_failed=True), folder_store)
    assert manifest.version == 1
    assert states(folder_store) == ["ok", "http_gone", "http_busy"]


def test_a_table_that_grows(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    paths = [f"image/{number}" for number in range(30)]
    table = write_table(tmp_path / "t.tsv", server.of(*paths[:12], "status/404"))
    first = ingest(config_for(table), folder_store)
    server.requests.clear()
    write_table(table, server.of(*paths[:12], "status/404", *paths[12:]))
    second = ingest(config_for(table), folder_store)
    assert set(server.requests) == set(paths[12:])
    assert (second.version, second.total) == (2, 30)
    assert second.shards[: len(first.shards)] == first.shards
    assert second.failed["http_gone"].count == 1


def test_samples_is_a_number_of_rows_that_can_be_raised(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    table = write_table(tmp_path / "t.tsv", server.of(*(f"image/{number}" for number in range(9))))
    assert ingest(config_for(table, samples=4), folder_store).total == 4
    assert len(server.requests) == 4
    assert ingest(config_for(table, samples=6), folder_store).total == 6
    assert set(server.requests.values()) == {1}


@pytest.mark.parametrize(
    ("drop", "left"), [("none", [0, 1, 2, 3, 4]), ("content", [0, 2, 3, 4]), ("look", [0, 3])], ids=["none", "content", "look"]
)
def test_duplicates_are_counted_and_dropped_on_demand(
    tmp_path: Path, server: BadServer, folder_store: Store, drop: str, left: list[int]
) -> None:
    """One picture under two URLs, then twice as a larger JPEG, and another one; later the first one comes again."""
    table = write_table(tmp_path / "t.tsv", server.of("same/1", "same/2", "larger/2", "image/other", "larger/3"))
    config = config_for(table, drop_duplicates=drop, heldout_fraction=0)
    manifest = ingest(config, folder_store)
    assert sorted(map(int, samples(folder_store))) == left
    kinds = {0: "", 1: "content", 2: "look", 3: "", 4: "look"}
    for key, row in outcomes(folder_store).items():
        kind = kinds[int(key)]
        if int(key) in left:
            assert (row["state"], row["duplicate"] or "") == ("ok", kind)
        else:
            assert row["state"] == f"duplicate_{kind}"
    assert sum(manifest.duplicates.values()) == sum(bool(kinds[number]) for number in left)
    write_table(table, server.of("same/1", "same/2", "larger/2", "image/other", "larger/3", "image/same", "image/new"))
    ingest(config, folder_store)
    assert outcomes(folder_store)["000000005"]["state" if drop != "none" else "duplicate"].endswith("content")
    assert outcomes(folder_store)["000000006"]["state"] == "ok"


def test_what_the_clean_part_leaves_out_is_named(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    table = write_table(tmp_path / "t.tsv", server.of(*(f"image/{number}" for number in range(30))))
    manifest = ingest(config_for(table, caption_noise=0.5, caption_noise_part="clean"), folder_store)
    assert manifest.failed == {}
    assert states(folder_store).count("ok") == manifest.total < 30
    assert states(folder_store).count("left_out") == 30 - manifest.total
    server.requests.clear()
    ingest(config_for(table, caption_noise=0.5, caption_noise_part="clean", retry_failed=True), folder_store)
    assert not server.requests


@pytest.fixture
def config(tmp_path: Path, server: BadServer) -> IngestConfig:
    paths = [f"image/{number}" for number in range(36)]
    paths[5:5] = ["status/404", "same/1", "html/a"]
    paths[25:25] = ["same/2", "status/503"]
    return config_for(
        write_table(tmp_path / "t.tsv", server.of(*paths)), caption_noise=0.3, heldout_fraction=0.3, download_rounds=2
    )


@pytest.fixture
def whole(tmp_path: Path, config: IngestConfig) -> tuple[dict[str, bytes], int]:
    """What an undisturbed ingest leaves, and in how many writes."""
    store = TrappedStore(tmp_path / "whole", 0, refuse)
    ingest(config, store)
    return contents(store), -store.left


@pytest.mark.parametrize("share", [0.0, 0.25, 0.45, 0.5, 0.7, 0.85, 0.93, 1.0])
def test_killed_at_any_write_it_goes_on_behind_its_last_shard(
    tmp_path: Path, server: BadServer, config: IngestConfig, whole: tuple[dict[str, bytes], int], share: float
) -> None:
    left, writes = whole
    number = 1 + round(share * (writes - 1))
    folder = tmp_path / "store"
    child = multiprocessing.get_context("fork").Process(
        target=ingest, args=(config, TrappedStore(folder, number, kill_this_process))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    store = open_store(folder)
    there = contents(store)
    assert "datasets/web/manifest.json" not in there
    finished = [data for key, data in there.items() if key.endswith(".outcomes")]
    settled = {row["url"] for data in finished for row in pq.read_table(io.BytesIO(data)).to_pylist()}
    server.requests.clear()
    ingest(config, store)
    assert contents(store) == left
    assert not {url.removeprefix(f"{server.url}/") for url in settled} & set(server.requests)
    if share >= 0.5:
        assert settled


def test_what_an_ingest_with_other_settings_left_is_not_taken_over(
    tmp_path: Path, config: IngestConfig, whole: tuple[dict[str, bytes], int]
) -> None:
    folder = tmp_path / "store"
    with pytest.raises(StorageError):
        ingest(config.model_copy(update={"seed": 9}), TrappedStore(folder, whole[1] - 2, refuse))
    store = open_store(folder)
    ingest(config, store)
    manifest = load_manifest(store, "web")
    manifest.check(store)
    reader = SampleReader(store, manifest)
    keys = sorted(str(reader.get(index).meta["key"]) for index in range(manifest.total))
    assert keys == sorted(key for key, row in outcomes(store).items() if row["state"] == "ok")


def test_a_lost_outcome_table_is_noticed(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    table = write_table(tmp_path / "t.tsv", server.of("image/a", "image/b"))
    ingest(config_for(table), folder_store)
    for key in contents(folder_store, "datasets/web/outcomes/"):
        folder_store.delete(key)
    server.requests.clear()
    with pytest.raises(DataError, match="account for 0 of 2 samples"):
        ingest(config_for(table, retry_failed=True), folder_store)
    assert not server.requests


def test_too_many_failures_end_the_step_and_lose_no_work(tmp_path: Path, server: BadServer, folder_store: Store) -> None:
    paths = [*(f"image/{number}" for number in range(20)), *(f"status/404/{number}" for number in range(10))]
    table = write_table(tmp_path / "t.tsv", server.of(*paths))
    with pytest.raises(DataError, match=r"10 of 30 rows gave no sample.*http_gone 10 \(such as 0000000\d\d: 404"):
        ingest(config_for(table, max_bad_fraction=0.1, heldout_fraction=0), folder_store)
    assert not [key for key in contents(folder_store) if key.endswith("manifest.json")]
    server.requests.clear()
    assert ingest(config_for(table, max_bad_fraction=0.5, heldout_fraction=0), folder_store).total == 20
    assert set(server.requests) == set(paths[20:])


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"source": "scenes", "path": "", "retry_failed": True}, ConfigError, "retry_failed is for tables of URLs"),
        ({"source": "scenes", "path": "", "drop_duplicates": "look"}, ConfigError, "drop_duplicates is for tables of URLs"),
        ({"retry_failed": True}, DataError, "no dataset 'web' whose failed rows"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, folder_store: Store, settings: dict[str, Any], kind: type[Exception], said: str
) -> None:
    table = write_table(tmp_path / "t.tsv", ["http://127.0.0.1:9/a"])
    with pytest.raises(kind, match=said):
        ingest(config_for(table).model_copy(update=settings), folder_store)
    assert contents(folder_store) == {}


DRRHO = (sys.executable, "-m", "drrho_pipelines.cli")


def drrho(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DRRHO, *arguments], capture_output=True, text=True, timeout=200)


def test_the_command(tmp_path: Path, server: BadServer) -> None:
    """Private addresses are refused unless that is asked for; --retry-failed; one line and exit code 2 for bad input."""
    table = write_table(tmp_path / "t.tsv", server.of("image/a", "image/b", "ailing/503/c"))
    command = ["ingest", "-s", str(tmp_path / "store"), "-d", "web", "--source", "table", "--path", str(table)]
    command += ["--set", "max_bad_fraction=0.9", "--set", "workers=1", "--set", "download_rounds=1"]
    refused = drrho(*command)
    assert refused.returncode == 2
    assert "address 3 (such as 000000000: the address is not a public one" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not server.requests
    done = drrho(*command, "--set", "allow_private=true")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["not_usable"] == {"http_busy": 1}
    server.healed = True
    again = drrho(*command, "--set", "allow_private=true", "--retry-failed")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["samples"], found["version"], found["not_usable"]) == (3, 2, {})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_by_a_signal_it_ends_at_once_and_publishes_nothing(
    tmp_path: Path, server: BadServer, number: int, code: int
) -> None:
    table = write_table(tmp_path / "t.tsv", server.of("image/a", "hang/b"))
    store = tmp_path / "store"
    arguments = ["ingest", "-s", str(store), "-d", "web", "--source", "table", "--path", str(table)]
    arguments += ["--set", "allow_private=true", "--set", "workers=1", "--set", "download_timeout=1000"]
    # Where the tests themselves run in the background of a shell, Ctrl-C's signal would be ignored from the start.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen([*DRRHO, *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:
        while not server.requests["hang/b"]:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    assert not [key for key in contents(open_store(store)) if key.endswith("manifest.json")]


MEMORY = """
import resource, sys
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.storage import open_store

if __name__ == "__main__":
    peaks = []
    for count in (1000, 10000):
        config = IngestConfig(
            dataset="web", source="table", path=f"{sys.argv[1]}/{count}.tsv", workers=1, shard_samples=100, allow_private=True,
            download_host_connections=64,
        )
        assert ingest(config, open_store(f"{sys.argv[1]}/{count}")).total == count
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(*peaks)
"""


def test_memory_does_not_grow_with_the_table(tmp_path: Path, server: BadServer) -> None:
    """Captions of 4 kB each: held whole, 10,000 rows would take 40 MB more than 1,000 do."""
    for count in (1000, 10000):
        words = "".join(random.Random(count).choices("abcdefgh ", k=4000))
        rows = [f"{server.url}/image/{number % 50}\t{number} {words}\n" for number in range(count)]
        (tmp_path / f"{count}.tsv").write_text("".join(rows))
    (tmp_path / "run.py").write_text(MEMORY)
    done = subprocess.run([sys.executable, str(tmp_path / "run.py"), str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    small, large = map(int, done.stdout.splitlines()[-1].split())
    assert large - small < 15_000, f"{small} kB for 1,000 rows, {large} kB for 10,000"
