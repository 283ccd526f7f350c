"""Groups that share an ingest leave, byte for byte, what one process leaves, for every kind of source."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_server import BadServer
from group_helpers import alone, hashes, of_group, parts_of, shared
from ingest_helpers import contents, folder_config, numbered, write_pairs
from source_helpers import picture, write_tar

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest, ingest_group
from drrho_clip.data.manifest import load_manifest
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.storage import Store, layout, open_store

SPLITS = {"validation_fraction": 0.2, "heldout_fraction": 0.2, "max_bad_fraction": 0.5, "workers": 1, "shard_samples": 8}


def pictures(folder: Path) -> Path:
    """Sixty pairs, of which two are no pictures and one has no caption."""
    write_pairs(folder, numbered(60))
    for number in (7, 30):
        (folder / f"cat_a-{number}.png").write_bytes(b"no picture")
    (folder / "cat_a-9.txt").write_text(" ")
    return folder


def of_folder(root: Path) -> dict[str, Any]:
    return {"source": "folder", "path": str(pictures(root / "pets")), "caption_noise": 0.4}


def of_folder_shrunk(root: Path) -> dict[str, Any]:
    return of_folder(root) | {"image_size": 9, "workers": 2, "caption_noise": 0.0, "caption_template": "{words}"}


def of_folder_in_part(root: Path) -> dict[str, Any]:
    return of_folder(root) | {"samples": 30}


def of_folder_clean(root: Path) -> dict[str, Any]:
    return of_folder(root) | {"caption_noise_part": "clean"}


def of_table(root: Path) -> dict[str, Any]:
    folder = pictures(root / "pets")
    rows = [f"{name}.png;a {name};{'train' if n % 3 else 'heldout'};c{n % 5}\n" for n, name in enumerate(numbered(62))]
    table = folder / "table.csv"
    table.write_text("file;caption;part;kind\n" + "".join(rows) + rows[3])
    return {"source": "table", "path": str(table), "split_field": "part", "class_field": "kind"}


def of_parquet(root: Path) -> dict[str, Any]:
    """Image bytes in two row groups, larger than what is read together."""
    images = [picture(number % 250) for number in range(600)]
    images[5] = b"no picture"
    captions = [f"number {number}" if number % 90 else None for number in range(600)]
    pq.write_table(pa.table({"image": images, "caption": captions}), root / "t.parquet", row_group_size=350)
    return {"source": "table", "path": str(root / "t.parquet"), "shard_samples": 100}


def of_tars(root: Path) -> dict[str, Any]:
    for tar in range(4):
        names = [f"{tar}{number}" for number in range(9)]
        members: list[tuple[str, Any]] = [(f"{name}.png", picture(int(name))) for name in names]
        members += [(f"{name}.txt", f"caption {name}") for name in names[1:]]
        write_tar(root / "tars" / f"{tar}.tar", members)
    return {"source": "shards", "path": str(root / "tars")}


def of_scenes(root: Path) -> dict[str, Any]:
    return {"source": "scenes", "samples": 50, "image_size": 24, "caption_noise": 0.3}


def of_drawings(root: Path) -> dict[str, Any]:
    return {"source": "openmoji", "samples": 40, "image_size": 16, "caption_template": "{name}, {group}"}


KINDS: list[Callable[[Path], dict[str, Any]]] = [
    *(of_folder, of_folder_shrunk, of_folder_in_part, of_folder_clean),
    *(of_table, of_parquet, of_tars, of_scenes, of_drawings),
]


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_groups_gives_the_bytes_of_one_process(tmp_path: Path, kind: Callable[[Path], dict[str, Any]]) -> None:
    config = IngestConfig.parse({"dataset": "d", **SPLITS, **kind(tmp_path)})
    expected = alone(config, tmp_path / "alone")
    for groups in (3, 64) if kind is of_folder else (3,):
        store = open_store(tmp_path / f"store{groups}")
        shared(config, store, groups)
        assert hashes(store) == expected
    assert len(load_manifest(store, "d").shards) > 3


def test_the_part_that_a_run_weighed_most(folder_store: Store, tmp_path: Path) -> None:
    noisy = ingest(IngestConfig.parse({"dataset": "noisy", **SPLITS, **of_scenes(tmp_path)}), folder_store)
    summary = f'{{"dataset": "noisy", "dataset_version": 1, "dataset_id": "{noisy.id}"}}'
    folder_store.write(layout.run_summary("run"), summary.encode())
    index = np.arange(noisy.splits["train"])
    weight = index.astype(np.float32) / len(index)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"index": index, "image_weight": weight, "text_weight": weight}), buffer)
    folder_store.write(layout.run_weights("run"), buffer.getvalue())
    other = tmp_path / "other"
    shutil.copytree(folder_store.uri, other)
    config = IngestConfig.parse({"dataset": "kept", "source": "curated", "path": "run", "keep": 0.5, **SPLITS})
    ingest(config, folder_store)
    shared(config, open_store(other), 3)
    assert hashes(open_store(other)) == hashes(folder_store)


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


def of_urls(folder: Path, server: BadServer, paths: list[str], **settings: Any) -> IngestConfig:
    """A table of URLs, and what is needed to fetch them from this machine at once."""
    table = folder / "t.tsv"
    table.write_text("url\tcaption\n" + "".join(f"{url}\tcaption {n}\n" for n, url in enumerate(server.of(*paths))))
    given = {"dataset": "web", "source": "table", "path": str(table), "allow_private": True, "download_backoff": 0.05}
    return IngestConfig.parse({**SPLITS, **given, "max_bad_fraction": 0.9, **settings})


def mixed(count: int) -> list[str]:
    """Pictures, copies of them far apart, and rows that fail, some of them only at first."""
    paths = [f"image/{number}" for number in range(count)]
    for place, path in ((3, "status/404"), (9, "same/1"), (14, "once/500/a"), (15, "once/500/b"), (20, "status/503")):
        paths.insert(place, path)
    for place, path in ((25, "larger/1"), (33, "same/2"), (41, "once/500/c"), (43, "larger/2"), (44, "html/x"), (45, "image/4")):
        paths.insert(place, path)
    return paths


@pytest.mark.parametrize(
    "settings",
    [
        {"caption_noise": 0.3},
        {"drop_duplicates": "content"},
        {"drop_duplicates": "look", "workers": 2},
        {"samples": 30, "caption_noise": 0.5, "caption_noise_part": "clean"},
        {"download_rounds": 1},
    ],
    ids=["noise", "content", "look", "part", "one-round"],
)
def test_urls_their_outcomes_and_duplicates_across_groups(tmp_path: Path, server: BadServer, settings: dict[str, Any]) -> None:
    config = of_urls(tmp_path, server, mixed(46), **settings)
    expected = alone(config, tmp_path / "alone")
    asked = dict(server.requests)
    for groups in (2, 5):
        server.requests.clear()
        store = open_store(tmp_path / f"store{groups}")
        manifest = shared(config, store, groups)
        assert hashes(store) == expected
        assert server.requests == asked
    found = {*manifest.duplicates, *(reason for reason in manifest.failed if "duplicate" in reason)}
    assert found or config.caption_noise_part == "clean"


def test_a_table_of_urls_that_grows(tmp_path: Path, server: BadServer) -> None:
    stores = [open_store(tmp_path / name) for name in ("alone", "store")]
    for count in (20, 46):
        config = of_urls(tmp_path, server, mixed(46)[:count], drop_duplicates="content")
        for groups, store in ((1, stores[0]), (3, stores[1])):
            server.requests.clear()
            manifest = shared(config, store, groups)
            assert ("image/0" in server.requests) == (count == 20)
    assert manifest.version == 2
    assert hashes(stores[1]) == hashes(stores[0])


def test_a_folder_that_grows(tmp_path: Path) -> None:
    stores = [open_store(tmp_path / name) for name in ("alone", "store")]
    for first, count in ((0, 30), (30, 25)):
        config = folder_config(write_pairs(tmp_path / "pets", numbered(count, first)), samples=50)
        for groups, store in ((1, stores[0]), (3, stores[1])):
            manifest = shared(config, store, groups)
    assert (manifest.version, manifest.total) == (2, 50)
    assert hashes(stores[1]) == hashes(stores[0])
    before = hashes(stores[1])
    assert shared(config, stores[1], 4) == manifest
    assert hashes(stores[1]) == before


def test_a_group_does_its_share_and_the_last_one_what_is_missing(tmp_path: Path, server: BadServer) -> None:
    """Nothing that a group has done is done again, and what a group that never ran would have done is."""
    config = of_urls(tmp_path, server, [f"image/{number}" for number in range(46)])
    expected = alone(config, tmp_path / "alone")
    store = open_store(tmp_path / "store")
    server.requests.clear()
    done = ingest_group(of_group(config, 2, 4), store)
    assert (done.pieces, done.rows, done.samples) == (1, 8, 8)
    assert set(server.requests) == {f"image/{number}" for number in range(16, 24)}
    assert not [key for key in contents(store) if key.endswith((".tar", "manifest.json"))]
    ingest(of_group(config, 0, 4), store)
    assert hashes(store) == expected
    assert set(server.requests.values()) == {1}


def test_an_object_store(tmp_path: Path, server: BadServer, s3_store: Store) -> None:
    config = of_urls(tmp_path, server, mixed(46))
    expected = alone(config, tmp_path / "alone")
    server.requests.clear()
    shared(config, s3_store, 3, absent={2})
    assert hashes(s3_store) == expected


def test_one_that_was_overtaken_looks_again(tmp_path: Path, folder_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process of group 0 publishes and cleans up just before this one puts all together."""
    from drrho_clip.data.groups import GroupWork

    config = of_group(folder_config(write_pairs(tmp_path / "pets", numbered(20))), 0, 2)
    results, others = GroupWork.results, [config]

    def overtaken(work: GroupWork) -> Any:
        if others:
            ingest(others.pop(), folder_store)
        return results(work)

    monkeypatch.setattr(GroupWork, "results", overtaken)
    manifest = ingest(config, folder_store)
    assert (manifest.version, manifest.total) == (1, 20)
    assert hashes(folder_store) == alone(config.model_copy(update={"groups": 1}), tmp_path / "alone")


def test_another_number_of_groups_goes_on_with_what_is_there(tmp_path: Path, server: BadServer) -> None:
    config = of_urls(tmp_path, server, [f"image/{number}" for number in range(46)])
    expected = alone(config, tmp_path / "alone")
    store = open_store(tmp_path / "store")
    server.requests.clear()
    ingest_group(of_group(config, 1, 2), store)
    shared(config, store, 5)
    assert hashes(store) == expected
    assert set(server.requests.values()) == {1}


@pytest.mark.parametrize("what", ["settings", "rows"])
def test_what_groups_with_other_settings_or_rows_left_is_not_taken(tmp_path: Path, what: str) -> None:
    source = write_pairs(tmp_path / "pets", numbered(40))
    config = folder_config(source)
    store = open_store(tmp_path / "store")
    ingest_group(of_group(folder_config(source, image_size=9) if what == "settings" else config, 1, 2), store)
    left = parts_of(store)
    assert left
    if what == "rows":
        write_pairs(source, numbered(3, first=100))
    ingest(of_group(config, 0, 2), store)
    assert hashes(store) == alone(config, tmp_path / "alone")


def test_too_many_bad_rows_end_the_step_as_in_one_process_and_lose_no_work(tmp_path: Path, server: BadServer) -> None:
    paths = [*(f"image/{number}" for number in range(20)), *(f"status/404/{number}" for number in range(10))]
    config = of_urls(tmp_path, server, paths, max_bad_fraction=0.1)
    said = []
    for groups in (1, 3):
        with pytest.raises(DataError, match="10 of 30 rows gave no sample") as error:
            shared(config, open_store(tmp_path / f"store{groups}"), groups)
        said.append(str(error.value))
    assert said[0] == said[1]
    server.requests.clear()
    more = config.model_copy(update={"max_bad_fraction": 0.5})
    shared(more, open_store(tmp_path / "store3"), 3)
    assert not server.requests
    ingest(more, open_store(tmp_path / "store1"))
    assert hashes(open_store(tmp_path / "store3")) == hashes(open_store(tmp_path / "store1"))


def test_one_key_in_two_tars_ends_the_step(tmp_path: Path, folder_store: Store) -> None:
    for tar in range(2):
        write_tar(tmp_path / f"{tar}.tar", [("cat.png", picture(tar)), ("cat.txt", "a cat")])
    config = IngestConfig.parse({"dataset": "d", "source": "shards", "path": str(tmp_path), "workers": 1})
    with pytest.raises(DataError, match="Two samples have the key 'cat'"):
        shared(config, folder_store, 2)
    assert not [key for key in contents(folder_store) if key.endswith((".tar", "manifest.json"))]


def test_a_group_that_starts_late_has_nothing_to_do(tmp_path: Path, folder_store: Store) -> None:
    config = folder_config(write_pairs(tmp_path / "pets", numbered(20)))
    ingest(of_group(config, 0, 2), folder_store)
    before = hashes(folder_store)
    assert ingest_group(of_group(config, 1, 2), folder_store).pieces == 0
    assert hashes(folder_store) == before


def test_limits_that_spare_others_hold_for_all_groups_together() -> None:
    from drrho_clip.data.download.limits import DownloadLimits

    limits = DownloadLimits.of(IngestConfig(groups=4, download_rate=100, download_host_delay=0.5, download_host_connections=9))
    assert (limits.rate, limits.host_delay, limits.host_connections) == (25, 2, 2)
    assert DownloadLimits.of(IngestConfig(groups=64)).host_connections == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retry_failed": True}, "retry_failed is for one process"),
        ({"source": "shards", "samples": 5}, "groups cannot share the first 5 samples of the source 'shards'"),
    ],
)
def test_what_groups_cannot_share_is_refused(tmp_path: Path, server: BadServer, settings: dict[str, Any], said: str) -> None:
    store = open_store(tmp_path / "store")
    config = of_urls(tmp_path, server, ["image/1"])
    if "source" in settings:
        settings = settings | {"path": of_tars(tmp_path)["path"], "dataset": "tars"}
    ingest(config, store)
    before = hashes(store)
    for group in (0, 1):
        with pytest.raises(ConfigError, match=said):
            (ingest_group if group else ingest)(of_group(config.model_copy(update=settings), group, 2), store)
    assert hashes(store) == before


def test_only_group_0_publishes(folder_store: Store) -> None:
    with pytest.raises(ConfigError, match="Group 1 publishes nothing"):
        ingest(IngestConfig(source="scenes", group=1, groups=2), folder_store)
