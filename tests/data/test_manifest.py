from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ingest_helpers import TrappedStore, manifest_of, plan, refuse

from drrho_clip.data.manifest import Manifest, Shard, load_manifest, publish
from drrho_clip.errors import DataError, StorageError
from drrho_clip.storage import Store, layout, open_store


def version(number: int) -> Manifest:
    return manifest_of(plan([3] * number), version=number)


def test_totals_and_splits_are_those_of_the_shards() -> None:
    shards = [shard.model_copy(update={"split": ("heldout", "train", "train")[i]}) for i, shard in enumerate(plan([2, 3, 4]))]
    manifest = manifest_of(shards)
    assert manifest.total == 9
    assert list(manifest.splits.items()) == [("train", 7), ("heldout", 2)]
    assert [shard.base for shard in manifest.split("train")] == [2, 5]
    with pytest.raises(DataError, match=r"no split 'test'.*It has: train \(7 samples\), heldout \(2 samples\)"):
        manifest.split("test")


def test_what_was_published_is_read_back(store: Store) -> None:
    publish(store, version(1))
    publish(store, version(2))
    assert load_manifest(store, "pets") == version(2)
    assert load_manifest(store, "pets", 1) == version(1)


def test_a_dataset_that_is_not_there_is_answered_with_those_that_are(store: Store) -> None:
    with pytest.raises(DataError, match=r"no dataset 'pets'.*There is no dataset at all"):
        load_manifest(store, "pets")
    for name in ("cats", "birds"):
        publish(store, manifest_of(plan([1]), name=name))
    store.write("datasets/cats/reference/r/manifest.json", b"{}")
    with pytest.raises(DataError, match=r"no dataset 'cat' .*Did you mean cats\?"):
        load_manifest(store, "cat")
    with pytest.raises(DataError, match="Known: birds, cats"):
        load_manifest(store, "zebra")
    with pytest.raises(DataError, match=r"no version 7.*versions are 1 to 1"):
        load_manifest(store, "cats", 7)


def test_the_first_of_two_writers_wins(store: Store) -> None:
    barrier = threading.Barrier(4)

    def write(number: int) -> str:
        mine = manifest_of(plan([number + 1]))
        barrier.wait()
        try:
            return publish(store, mine).id
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(write, range(4)))
    assert load_manifest(store, "pets") == load_manifest(store, "pets", 1)
    assert answers.count(load_manifest(store, "pets").id) == 1
    assert sum("Another ingest has published version 1" in answer for answer in answers) == 3


def test_publishing_again_is_no_error_and_never_goes_back(folder_store: Store) -> None:
    publish(folder_store, version(1))
    publish(folder_store, version(2))
    publish(folder_store, version(1))
    assert load_manifest(folder_store, "pets").version == 2


def test_a_crash_between_the_two_writes_is_harmless_and_healed(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        publish(TrappedStore(tmp_path, 2, refuse), version(1))
    with pytest.raises(DataError, match="no dataset 'pets'"):
        load_manifest(open_store(tmp_path), "pets")
    publish(open_store(tmp_path), version(1))
    assert load_manifest(open_store(tmp_path), "pets") == version(1)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda text: text.replace('"count": 3', '"count": 2'), "samples lie before it"),
        (lambda text: text.replace('"sha256": "s"', '"sha256": "t"', 1), "id does not belong"),
        (lambda text: text.replace('"version"', '"verzion"'), "verzion|version"),
        (lambda text: "\0\1", "Invalid JSON"),
    ],
)
def test_a_damaged_manifest_is_named(folder_store: Store, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    publish(folder_store, version(2))
    key = layout.dataset_manifest("pets")
    folder_store.write(key, damage(folder_store.read(key).decode()).encode())
    with pytest.raises(DataError, match=f"(?s)manifest cannot be read.*({said}).*{key}"):
        load_manifest(folder_store, "pets")


def put_shards(store: Store) -> Manifest:
    shards: list[Shard] = []
    for number in range(3):
        data = bytes([number]) * 100
        info = store.write(layout.shard("pets", number), data)
        shards.append(Shard(key=info.key, etag=info.etag, sha256="", bytes=100, count=1, base=number, split="train"))
    return manifest_of(shards)


def remove(store: Store, key: str) -> None:
    store.delete(key)


def flip_a_byte(store: Store, key: str) -> None:
    store.write(key, b"\x07" + store.read(key)[1:])


def cut(store: Store, key: str) -> None:
    store.write(key, store.read(key)[:60])


@pytest.mark.parametrize(
    ("harm", "said"), [(remove, "is gone"), (flip_a_byte, "was altered"), (cut, "has 60 bytes instead of 100")]
)
def test_the_check_names_shards_that_are_gone_or_altered(store: Store, harm, said: str) -> None:  # type: ignore[no-untyped-def]
    manifest = put_shards(store)
    manifest.check(store)
    harm(store, manifest.shards[1].key)
    with pytest.raises(DataError, match=f"1 of 3 shards.*shards/000001.tar {said}.*Restore"):
        manifest.check(store)
