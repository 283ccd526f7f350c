from __future__ import annotations

import io
import itertools
import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_helpers import contents, folder_config, kill_this_process, numbered, write_pairs
from PIL import Image

from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.prepare import BATCH, LOOK_AHEAD, prepare_all
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.sources.base import Held, RawSample
from drrho_clip.data.sources.order import seeded_order
from drrho_clip.errors import ConfigError, DataError, DrrhoError, StorageError
from drrho_clip.storage import Store, layout


def keys_of(store: Store, dataset: str = "pets") -> list[str]:
    manifest = load_manifest(store, dataset)
    reader = SampleReader(store, manifest)
    return [reader.get(i).meta["key"] for i in range(manifest.total)]


def test_every_pair_arrives_in_shards_of_one_split(tmp_path: Path, folder_store: Store) -> None:
    config = folder_config(write_pairs(tmp_path / "pets", numbered(60)), validation_fraction=0.2, shard_samples=7)
    manifest = ingest(config, folder_store)
    assert load_manifest(folder_store, "pets") == load_manifest(folder_store, "pets", 1) == manifest
    assert sorted(keys_of(folder_store)) == sorted(numbered(60))
    assert set(manifest.splits) == {"train", "validation", "heldout"}
    full = [shard for shard in manifest.shards if shard.count == 7]
    assert len(manifest.shards) - len(full) <= 3
    manifest.check(folder_store)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    from drrho_clip.storage import open_store

    source = write_pairs(tmp_path / "pets", numbered(50))
    (source / "cat_a-3.png").write_bytes(b"no picture")
    stores = [open_store(tmp_path / f"store{workers}") for workers in (1, 2)]
    for workers, store in enumerate(stores, start=1):
        ingest(folder_config(source, workers=workers, caption_noise=0.3), store)
    assert contents(stores[0]) == contents(stores[1])


def test_ingesting_again_finds_what_is_there(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pairs(tmp_path / "pets", numbered(20))
    (source / "cat_a-3.png").write_bytes(b"no picture")
    manifest = ingest(folder_config(source), store)
    before = {info.key: info.etag for info in store.list()}
    assert ingest(folder_config(source, workers=2, max_bad_fraction=0.5), store) == manifest
    assert {info.key: info.etag for info in store.list()} == before
    assert "ingest_found" in "".join(capsys.readouterr())


def test_growth_appends_and_moves_nothing(tmp_path: Path, store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(30))
    first = ingest(folder_config(source), store)
    before = contents(store, "datasets/pets/shards/")
    split_of = splits(store)
    write_pairs(source, numbered(12, first=30))
    second = ingest(folder_config(source), store)
    assert (second.version, second.total) == (2, 42)
    assert second.shards[: len(first.shards)] == first.shards
    assert contents(store, "datasets/pets/shards/").items() >= before.items()
    assert splits(store).items() >= split_of.items()
    assert load_manifest(store, "pets", 1) == first
    assert ingest(folder_config(source), store) == second


def splits(store: Store) -> dict[str, str]:
    manifest = load_manifest(store, "pets")
    reader = SampleReader(store, manifest)
    return {str(sample.meta["key"]): shard.split for shard in manifest.shards for sample in reader.shard(shard)}


def test_a_repaired_row_is_added_later(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(20))
    (source / "cat_a-3.png").write_bytes(b"no picture")
    assert ingest(folder_config(source), folder_store).failed["not_an_image"].count == 1
    write_pairs(source, ["cat_a-3"])
    manifest = ingest(folder_config(source), folder_store)
    assert (manifest.version, manifest.total, manifest.failed) == (2, 20, {})


def test_without_the_lists_of_keys_the_tars_are_asked(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(20))
    manifest = ingest(folder_config(source), folder_store)
    for number, shard in enumerate(manifest.shards):
        key = layout.shard_keys(shard.key)
        folder_store.write(key, b"[]") if number % 2 else folder_store.delete(key)
    assert ingest(folder_config(source), folder_store) == manifest


def test_samples_is_a_limit_that_can_be_raised(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(30))
    assert ingest(folder_config(source, samples=12), folder_store).total == 12
    assert ingest(folder_config(source, samples=12), folder_store).version == 1
    assert ingest(folder_config(source, samples=20), folder_store).total == 20
    assert sorted(keys_of(folder_store)) == sorted(set(keys_of(folder_store)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"caption_noise": 0.3}, "caption_noise was 0.0, now 0.3"),
        ({"heldout_fraction": 0.2, "image_size": 8}, "image_size was 0, now 8, heldout_fraction was 0.1, now 0.2"),
        ({"source": "scenes", "path": ""}, "source was 'folder', now 'scenes'"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, folder_store: Store, settings: dict[str, Any], said: str) -> None:
    source = write_pairs(tmp_path / "pets", numbered(10))
    manifest = ingest(folder_config(source), folder_store)
    with pytest.raises(DataError, match=f"made with other settings: {said}.*name of its own"):
        ingest(folder_config(source, **settings), folder_store)
    assert load_manifest(folder_store, "pets") == manifest


def picture(mode: str, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 4), dtype=np.uint8), "RGBA").convert(mode).save(buffer, "TIFF")
    return buffer.getvalue()


def test_what_failed_and_what_was_converted_is_counted(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(60))
    for number in range(25):
        (source / f"cat_a-{number}.png").write_bytes(b"no picture")
    good = (source / "cat_a-30.png").read_bytes()
    (source / "cat_a-30.png").write_bytes(good[: len(good) // 2])
    (source / "cat_a-31.txt").unlink()
    (source / "cat_a-32.txt").write_text("  \n")
    write_pairs(source, ["cat_a-33"], side=4)
    (source / "cat_a-34.png").write_bytes(picture("CMYK"))
    (source / "cat_a-35.png").write_bytes(picture("CMYK"))
    manifest = ingest(folder_config(source, max_bad_fraction=0.5), folder_store)
    counts = {reason: failure.count for reason, failure in manifest.failed.items()}
    assert counts == {"not_an_image": 25, "truncated": 1, "no_caption": 1, "empty_caption": 1, "too_small": 1}
    assert len(manifest.failed["not_an_image"].examples) == 20
    assert manifest.failed["truncated"].examples[0].startswith("cat_a-30: ")
    assert manifest.converted == {"CMYK": 2}
    assert manifest.total == 60 - 29


def test_too_many_bad_rows_end_the_step(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(10))
    for number in range(3):
        (source / f"cat_a-{number}.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"3 of 10 rows gave no sample.*0\.2 allows: not_an_image 3 \(such as cat_a-\d: .*max_bad"
    ):
        ingest(folder_config(source, max_bad_fraction=0.2), folder_store)
    assert not [key for key in contents(folder_store) if key.endswith(".json")]
    assert ingest(folder_config(source, max_bad_fraction=0.3), folder_store).total == 7


def test_a_hopeless_source_ends_early(tmp_path: Path, folder_store: Store) -> None:
    source = tmp_path / "pets"
    source.mkdir()
    for name in numbered(400):
        (source / f"{name}.png").write_bytes(b"no picture")
        (source / f"{name}.txt").write_text("a caption")
    with pytest.raises(DataError, match="200 of 200 rows gave no sample"):
        ingest(folder_config(source), folder_store)


def test_a_source_at_the_edge_of_what_is_allowed_is_not_ended_early(tmp_path: Path, folder_store: Store) -> None:
    """Among the first rows more may be bad by chance; only the whole counts."""
    source = write_pairs(tmp_path / "pets", numbered(300))
    order = seeded_order(numbered(300), 0)
    for name in order[180:209]:
        (source / f"{name}.png").write_bytes(b"no picture")
    manifest = ingest(folder_config(source, shard_samples=100), folder_store)
    assert manifest.failed["not_an_image"].count == 29


def test_known_samples_count_as_good(tmp_path: Path, folder_store: Store) -> None:
    """Bad rows are tried again each time; that must not make them the only ones that count."""
    source = write_pairs(tmp_path / "pets", numbered(250))
    for number in range(20):
        (source / f"cat_a-{number}.png").write_bytes(b"no picture")
    manifest = ingest(folder_config(source, shard_samples=100), folder_store)
    assert ingest(folder_config(source, shard_samples=100), folder_store) == manifest


def test_nothing_usable_is_an_error(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(3))
    for name in numbered(3):
        (source / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"No row of the source gave a sample: not_an_image 3 \(such as cat_a"):
        ingest(folder_config(source, max_bad_fraction=1), folder_store)
    assert contents(folder_store) == {}


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"heldout_fraction": 0.6, "validation_fraction": 0.4}, ConfigError, "leave nothing for training"),
        ({"dataset": "a/b"}, ConfigError, "'a/b' cannot be the name of a dataset"),
        ({"path": "/nowhere/at/all"}, DataError, "folder does not exist.*/nowhere/at/all"),
    ],
)
def test_wrong_settings_end_before_anything_is_written(
    tmp_path: Path, folder_store: Store, settings: dict[str, Any], kind: type[DrrhoError], said: str
) -> None:
    source = write_pairs(tmp_path / "pets", numbered(3))
    with pytest.raises(kind, match=said):
        ingest(folder_config(source, **settings), folder_store)
    assert contents(folder_store) == {}


def test_the_source_may_name_the_splits(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(9))
    for number, name in enumerate(numbered(9)):
        (source / f"{name}.txt").unlink()
        fields = {"caption": "a cat", "part": ("train", "val", "test")[number % 3]}
        (source / f"{name}.json").write_text(json.dumps(fields))
    manifest = ingest(folder_config(source, split_field="part"), folder_store)
    assert manifest.splits == {"train": 3, "validation": 3, "heldout": 3}
    assert splits(folder_store)["cat_a-2"] == "heldout"


def test_classes_are_listed_and_kept_with_the_pictures(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", [f"{kind}/{n}" for kind in ("owl", "cat") for n in range(6)])
    manifest = ingest(folder_config(source, class_field="{parent}", caption_noise=1), folder_store)
    assert manifest.classnames == ("cat", "owl")
    reader = SampleReader(folder_store, manifest)
    assert all(s.meta["class"] == s.meta["key"].split("/")[0] for s in map(reader.get, range(12)))


def test_half_characters_do_no_harm(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(3))
    for name in numbered(3):
        (source / f"{name}.txt").unlink()
        (source / f"{name}.json").write_text('{"caption": "a cat", "kind": "\\ud800x", "part": "train"}')
    (source / "cat_a-0.json").write_text('{"caption": "a cat", "part": "\\ud800"}')
    config = folder_config(source, class_field="kind", split_field="part", max_bad_fraction=0.5)
    assert ingest(config, folder_store).classnames == ("\\ud800x",)
    assert ingest(config, folder_store).failed["split"].count == 1


def test_no_more_rows_are_taken_than_the_workers_can_hold(tmp_path: Path) -> None:
    data = (write_pairs(tmp_path, ["cat"]) / "cat.png").read_bytes()
    taken: list[str] = []

    def rows() -> Iterator[tuple[RawSample, str]]:
        for number in itertools.count():
            taken.append(f"{number}")
            yield RawSample(f"{number}", Held(data), "a cat"), "train"

    with closing(prepare_all(rows(), folder_config(tmp_path, workers=2))) as results:
        first = [next(results) for _ in range(20)]
    assert [sample.key for sample in first] == taken[:20]
    assert len(taken) <= 2 * LOOK_AHEAD * BATCH + BATCH


def test_a_worker_that_dies_is_one_clear_error(tmp_path: Path) -> None:
    rows = [(RawSample("k", kill_this_process, "a cat"), "train")]  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"One of 2 workers.*want of memory.*Set workers to a smaller number"):
        list(prepare_all(rows, folder_config(tmp_path, workers=2)))


def test_an_address_is_kept_without_its_secrets() -> None:
    from drrho_clip.data.ingest import _settings

    config = folder_config(Path("x"), source="shards", path="https://me:secret@host/a/{0..3}.tar?X-Amz-Signature=abc")
    assert _settings(config)["path"] == "https://host/a/{0..3}.tar"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_leaves_nothing_published(tmp_path: Path, folder_store: Store) -> None:
    source = write_pairs(tmp_path / "pets", numbered(40), side=32)
    with largest_file(20_000), pytest.raises(StorageError, match="The disk refused: File too large"):
        ingest(folder_config(source), folder_store)
    with pytest.raises(DataError, match="no dataset 'pets'"):
        load_manifest(folder_store, "pets")
    assert ingest(folder_config(source), folder_store).total == 40


def test_splits_are_drawn_by_the_fractions(tmp_path: Path) -> None:
    from drrho_clip.data.noise import draw_split

    drawn = Counter(draw_split(key, 5, 0.1, 0.3) for key in numbered(20_000))
    assert drawn["heldout"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert drawn["validation"] / 20_000 == pytest.approx(0.3, abs=0.015)
