"""Adopted tars that come, change or go, and indexes that do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from adopt_helpers import adopted, captions_of, copied, noise, numbers, photos
from source_helpers import write_tar

from drrho_clip.data.manifest import Manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.sources import shards as shards_module
from drrho_clip.errors import DataError
from drrho_clip.storage import Store, layout
from drrho_clip.verification.dataset import verify_dataset


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars of four samples, one of which has a bad one besides."""
    write_tar(tmp_path / "tars/00000.tar", [*photos(numbers(0, 4)), ("bad.jpg", noise("bad"))])
    write_tar(tmp_path / "tars/00001.tar", photos(numbers(10, 4)))
    return tmp_path / "tars"


@pytest.fixture
def manifest(tars: Path, folder_store: Store) -> Manifest:
    return adopted(folder_store, tars, max_bad_fraction=0.5)


def test_again_finds_all_and_reads_only_new_tars(
    tars: Path, folder_store: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    paired = shards_module._paired
    monkeypatch.setattr(shards_module, "_paired", lambda path, name: read.append(Path(name).name) or paired(path, name))
    assert adopted(folder_store, tars) == manifest
    assert read == []
    write_tar(tars / "00000-more.tar", [*photos(numbers(20, 3)), ("worse.jpg", noise("worse"))])
    grown = adopted(folder_store, tars, max_bad_fraction=0.5)
    assert read == ["00000-more.tar"]
    assert (grown.version, grown.total) == (2, 11)
    assert grown.shards[:2] == manifest.shards
    assert list(captions_of(folder_store, grown)) == [*numbers(0, 4), *numbers(10, 4), *numbers(20, 3)]
    assert (grown.failed["no_caption"].count, len(grown.failed["no_caption"].examples)) == (2, 2)
    assert captions_of(folder_store, manifest) == dict(list(captions_of(folder_store, grown).items())[:8])
    assert verify_dataset(folder_store, "web").problems == []


def test_a_new_tar_with_a_key_that_is_there_is_refused(tars: Path, folder_store: Store, manifest: Manifest) -> None:
    write_tar(tars / "00002.tar", photos(numbers(12, 2)))
    with pytest.raises(DataError, match=r"Two samples have the key '000000012'.*00002.tar"):
        adopted(folder_store, tars)


def test_a_dataset_is_copied_or_adopted(tars: Path, folder_store: Store, manifest: Manifest) -> None:
    with pytest.raises(DataError, match="adopt was True, now False"):
        copied(folder_store, tars, dataset="web")


def gone(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(512))


@pytest.mark.parametrize(
    ("harm", "said", "found"),
    [
        (gone, "it is gone", "is gone"),
        (flipped, "it was altered after it was published", "was altered"),
        (longer, "it was altered after it was published", "bytes instead of"),
    ],
)
def test_a_tar_that_is_gone_or_altered_is_named(
    tars: Path, folder_store: Store, manifest: Manifest, harm: Callable[[Path], None], said: str, found: str
) -> None:
    harm(tars / "00001.tar")
    reader = SampleReader(folder_store, manifest)
    assert reader.get(0).index == 0
    with pytest.raises(DataError, match=f"{said}.*00001.tar.*Restore the object from a backup"):
        reader.get(4)
    with pytest.raises(DataError, match=f"1 of 2 shards.*00001.tar.*{found}"):
        reader.check()
    problems = verify_dataset(folder_store, "web").problems
    assert len(problems) == 1
    assert "00001.tar" in problems[0]
    if harm is not gone:
        with pytest.raises(DataError, match=r"altered after it was adopted.*00001.tar"):
            adopted(folder_store, tars)


@pytest.mark.parametrize("name", ["idx", "keys"])
def test_an_index_that_is_gone_is_named(folder_store: Store, manifest: Manifest, name: str) -> None:
    key = {"idx": layout.shard_index, "keys": layout.shard_keys}[name](manifest.shards[0].key)
    folder_store.delete(key)
    with pytest.raises(DataError, match=r"shards/000000.tar.*(its index is gone|keys of its samples are gone)"):
        SampleReader(folder_store, manifest).get(0)
    assert len(verify_dataset(folder_store, "web").problems) == 1


def swapped(text: bytes) -> bytes:
    head, first, second, *rest = text.split(b"\n")
    return b"\n".join([head, second, first, *rest])


def shifted(text: bytes) -> bytes:
    return text.replace(b" 512 ", b" 1024 ", 1)


@pytest.mark.parametrize("harm", [swapped, shifted])
def test_an_altered_index_never_gives_a_wrong_pair(
    folder_store: Store, manifest: Manifest, harm: Callable[[bytes], bytes]
) -> None:
    key = layout.shard_index(manifest.shards[0].key)
    folder_store.write(key, harm(folder_store.read(key)))
    with pytest.raises(DataError, match="its index was altered after it was published"):
        SampleReader(folder_store, manifest).get(0)


def test_keys_of_other_samples_are_noticed(folder_store: Store, manifest: Manifest) -> None:
    key = layout.shard_keys(manifest.shards[0].key)
    folder_store.write(key, folder_store.read(layout.shard_keys(manifest.shards[1].key)))
    with pytest.raises(DataError, match="is not what was adopted"):
        SampleReader(folder_store, manifest).get(0)


def test_which_samples_are_taken_is_part_of_the_id(tars: Path, folder_store: Store, manifest: Manifest) -> None:
    fewer = adopted(folder_store, tars / "00001.tar", dataset="a", samples=2)
    more = adopted(folder_store, tars / "00001.tar", dataset="b", samples=3)
    assert fewer.shards[0].sha256 == more.shards[0].sha256 == manifest.shards[1].sha256
    assert len({fewer.id, more.id, manifest.id}) == 3
