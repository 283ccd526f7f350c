"""Adopted tars give the samples that a copy of them gives, and nothing of them is copied."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from adopt_helpers import adopted, captions_of, config_of, copied, noise, numbers, photo, photos, samples_of, write_named
from ingest_helpers import contents
from PIL import Image
from source_helpers import Members, write_tar

from drrho_clip.data.images import decode_image
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import parse_manifest
from drrho_clip.data.pieces import Pieces, is_header_of
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.tar_index import Member, TarIndex
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.verification.dataset import verify_dataset


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars of five samples."""
    for number in range(3):
        write_tar(tmp_path / f"tars/{number:05d}.tar", photos(numbers(10 * number, 5)))
    return tmp_path / "tars"


def test_the_samples_are_those_of_a_copy_and_only_manifest_index_and_keys_are_written(tars: Path, folder_store: Store) -> None:
    before = {path: path.read_bytes() for path in tars.iterdir()}
    manifest = adopted(folder_store, tars)
    copy = copied(folder_store, tars, shard_samples=5)
    ours, theirs = samples_of(folder_store, manifest), samples_of(folder_store, copy)
    assert [(s.index, s.image, s.caption, s.meta["key"]) for s in ours] == [
        (s.index, s.image, s.caption, s.meta["key"]) for s in theirs
    ]
    assert manifest.total == 15
    written = contents(folder_store, "datasets/web/")
    assert {name.rpartition(".")[2] for name in written} == {"json", "idx", "keys"}
    assert sum(map(len, written.values())) < sum(shard.bytes for shard in manifest.shards) / 8
    assert {path: path.read_bytes() for path in tars.iterdir()} == before
    assert verify_dataset(folder_store, "web").problems == []
    assert verify_dataset(folder_store, "web").counts["samples"] == 15


def test_splits_within_a_tar_are_those_of_a_copy(tars: Path, folder_store: Store) -> None:
    shares = {"heldout_fraction": 0.3, "validation_fraction": 0.2}
    found = []
    for manifest in (adopted(folder_store, tars, **shares), copied(folder_store, tars, **shares)):
        reader = SampleReader(folder_store, manifest)
        found.append({s.meta["key"]: shard.split for shard in manifest.shards for s in reader.shard(shard)})
    assert found[0] == found[1]
    assert set(found[0].values()) == {"train", "validation", "heldout"}
    assert verify_dataset(folder_store, "web").counts["bytes"] == sum(path.stat().st_size for path in tars.iterdir())


BIG = [("other.npy", b"\x93NUMPY" + bytes(200_000))]
KEYS = ("cat v2.0", "22.05", "d.v1/1", "100%", "e.v1/1")


@pytest.mark.parametrize("layout_name", ["side by side", "images first", "texts first", "reversed", "leading dot", "far apart"])
def test_members_may_stand_anywhere(tmp_path: Path, folder_store: Store, layout_name: str) -> None:
    members = [member for key in KEYS for member in ((f"{key}.jpg", noise(key)), (f"{key}.txt", f"caption of {key}"))]
    arranged: dict[str, Members] = {
        "side by side": members,
        "images first": members[::2] + members[1::2],
        "texts first": members[1::2] + members[::2],
        "reversed": members[::-1],
        "leading dot": [(f"./{name}", data) for name, data in members],
        "far apart": members[::2] + BIG + members[1::2],
    }
    manifest = adopted(folder_store, write_tar(tmp_path / "x.tar", arranged[layout_name]))
    samples = samples_of(folder_store, manifest)
    assert {s.meta["key"]: (s.caption, s.image) for s in samples} == {key: (f"caption of {key}", noise(key)) for key in KEYS}


def test_what_lies_between_is_not_read(tmp_path: Path, folder_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    members = photo("a")
    manifest = adopted(folder_store, write_tar(tmp_path / "x.tar", members[:1] + BIG + members[1:]))
    lengths: list[int] = []
    read_range = type(folder_store).read_range

    def counted(self: Any, key: str, start: int, length: int, **more: Any) -> bytes:
        lengths.append(length)
        return read_range(self, key, start, length, **more)

    monkeypatch.setattr(type(folder_store), "read_range", counted)
    assert SampleReader(folder_store, manifest).get(0).caption == "caption of a"
    assert len(lengths) == 2
    assert sum(lengths) < 10_000


LONG = "f" * 90 + "/" + "g" * 60
NAMES = ("plain", LONG, "h" * 130, "é" * 20, "ü" * 70 + " x", "with space/and %41")


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_any_length_are_checked_by_their_headers(tmp_path: Path, folder_store: Store, tar_format: int) -> None:
    names = [name for name in NAMES if tar_format != tarfile.USTAR_FORMAT or len(name.encode()) < 100 or name == LONG]
    members = [member for key in names for member in ((f"{key}.jpg", noise(key)), (f"{key}.txt", f"caption of {key}"))]
    path = write_named(tmp_path / "x.tar", members, tar_format)
    manifest = adopted(folder_store, path)
    assert captions_of(folder_store, manifest) == {key: f"caption of {key}" for key in names}
    index = TarIndex(folder_store.read(layout.shard_index(manifest.shards[0].key)))
    data = path.read_bytes()
    for member in (member for position in range(len(index)) for member in index.members(position)):
        headers = data[: member.offset]
        assert is_header_of(headers, member)
        other = Member(member.extension, member.offset, member.size, member.name[:-5] + "?" + member.name[-4:])
        assert not is_header_of(headers, other)
        assert not is_header_of(headers, Member(member.extension, member.offset, member.size + 1, member.name))


def test_a_piece_gives_only_the_member_that_its_header_names() -> None:
    member = Member("txt", 1024, 3, "a.txt")
    header = tarfile.TarInfo("a.txt")
    header.size = 3
    data = header.tobuf() + b"cat"
    assert Pieces((512,), (data,)).member(member) == b"cat"
    assert Pieces((512,), (data[:-1],)).member(member) is None
    assert Pieces((1024,), (data,)).member(member) is None
    assert Pieces((511,), (data,)).member(member) is None


FIELDS = {"alt": "a cat", "label": "pet", "part": "test"}


@pytest.mark.parametrize(
    ("members", "settings"),
    [
        ([("d/a.json", {"caption": "a cat"})], {}),
        ([("d/a.txt", "other"), ("d/a.json", FIELDS)], {"caption_field": "alt", "class_field": "label"}),
        ([("d/a.txt", "a cat"), ("d/a.json", FIELDS)], {"class_field": "label", "split_field": "part"}),
        ([("d/a.txt", "a cat"), ("d/a.cls", "7\n")], {}),
        ([("d/a.txt", b"caf\x92 \x00 "), ("d/a.cls", "7")], {"class_field": "{parent}"}),
        ([("d/a.outputs.txt", "a cat")], {}),
    ],
)
def test_texts_are_read_as_a_copy_has_them(
    tmp_path: Path, folder_store: Store, members: Members, settings: dict[str, Any]
) -> None:
    image = ("d/a.input.jpg" if "outputs" in members[0][0] else "d/a.jpg", noise("a"))
    path = write_tar(tmp_path / "x.tar", [*members, image])
    manifest, copy = adopted(folder_store, path, **settings), copied(folder_store, path, **settings)
    (ours,), (theirs,) = samples_of(folder_store, manifest), samples_of(folder_store, copy)
    assert ours.caption == theirs.caption
    assert {**theirs.meta, **ours.meta} == theirs.meta
    assert ours.meta.get("class") == theirs.meta.get("class")
    assert (manifest.classnames, manifest.splits) == (copy.classnames, copy.splits)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def test_pictures_that_a_copy_encodes_anew_are_decoded_to_the_same_pixels(tmp_path: Path, folder_store: Store) -> None:
    picture = Image.open(io.BytesIO(noise("x", image_format="PNG")))
    turned = Image.Exif()
    turned[274] = 6
    images = {
        "palette.png": encoded(picture.convert("P"), "PNG"),
        "clear.webp": encoded(picture.convert("RGBA"), "WEBP", lossless=True),
        "turned.png": encoded(picture, "PNG", exif=turned.tobytes()),
        "old.bmp": encoded(picture, "BMP"),
        "noend": encoded(picture, "GIF"),
    }
    members: Members = list(images.items())
    members += [(f"{name.partition('.')[0]}.txt", name) for name in images]
    path = write_tar(tmp_path / "x.tar", members)
    manifest, copy = adopted(folder_store, path), copied(folder_store, path)
    ours, theirs = samples_of(folder_store, manifest), samples_of(folder_store, copy)
    assert [s.image for s in ours] == list(images.values())
    assert [decode_image(s.image).tobytes() for s in ours] == [decode_image(s.image).tobytes() for s in theirs]


def test_bad_samples_are_left_out_and_told_as_in_a_copy(tmp_path: Path, folder_store: Store) -> None:
    members = [*photos(numbers(0, 4)), ("cut.jpg", noise("cut")[:-300]), ("cut.txt", "x"), ("mute.jpg", noise("m"))]
    members += [("s.txt", "x")]
    members += [("empty.jpg", noise("e")), ("empty.txt", " "), ("small.png", noise("s", 4, "PNG")), ("small.txt", "x")]
    path = write_tar(tmp_path / "x.tar", members)
    manifest = adopted(folder_store, path, max_bad_fraction=0.6)
    copy = copied(folder_store, path, max_bad_fraction=0.6)
    assert manifest.failed == copy.failed
    assert set(manifest.failed) == {"truncated", "no_caption", "no_image", "empty_caption", "too_small"}
    assert list(captions_of(folder_store, manifest)) == numbers(0, 4)
    with pytest.raises(DataError, match="more than max_bad_fraction"):
        adopted(folder_store, path, dataset="strict")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_size": 64}, "image_size = 64 does not go with adopt.*Copy them"),
        ({"caption_noise": 0.3}, "caption_noise = 0.3 does not go with adopt"),
        ({"source": "folder"}, "adopt is for the source 'shards', not for 'folder'"),
    ],
)
def test_what_adopting_cannot_do_is_refused(tars: Path, folder_store: Store, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        adopted(folder_store, tars, **settings)
    assert contents(folder_store) == {}


def test_the_clean_part_can_be_adopted(tars: Path, folder_store: Store) -> None:
    settings = {"caption_noise": 0.5, "caption_noise_part": "clean"}
    manifest, copy = adopted(folder_store, tars, **settings), copied(folder_store, tars, **settings)
    assert captions_of(folder_store, manifest) == captions_of(folder_store, copy)
    assert 0 < manifest.total < 15


def test_tars_in_the_store_move_with_it(tars: Path, tmp_path: Path) -> None:
    shutil.copytree(tars, tmp_path / "store/raw")
    manifest = adopted(open_store(tmp_path / "store"), tmp_path / "store/raw")
    assert [shard.location for shard in manifest.shards] == ["raw/00000.tar", "raw/00001.tar", "raw/00002.tar"]
    (tmp_path / "store").rename(tmp_path / "moved")
    moved = open_store(tmp_path / "moved")
    manifest.check(moved)
    assert len(captions_of(moved, manifest)) == 15


def test_workers_and_a_limit(tars: Path, folder_store: Store) -> None:
    few = adopted(folder_store, tars, workers=2, samples=7)
    assert list(captions_of(folder_store, few)) == [*numbers(0, 5), *numbers(10, 2)]
    all_of_them = adopted(folder_store, tars, workers=2)
    assert [shard.count for shard in all_of_them.shards] == [5, 2, 3, 5]
    assert list(captions_of(folder_store, all_of_them)) == [*numbers(0, 5), *numbers(10, 5), *numbers(20, 5)]


def test_manifests_from_before_are_read(tars: Path, folder_store: Store) -> None:
    manifest = copied(folder_store, tars)
    text = json.loads(folder_store.read(layout.dataset_manifest("copy")))
    assert "uids" not in text
    assert set(text["shards"][0]) == {"key", "etag", "sha256", "bytes", "count", "base", "split"}
    for name in ("adopt", "uids"):
        del text["source"][name]
    older = parse_manifest(json.dumps(text).encode(), "x")
    assert older.id == manifest.id
    folder_store.write(layout.dataset_manifest("copy"), json.dumps(text).encode())
    folder_store.write(layout.dataset_manifest("copy", 1), json.dumps(text).encode())
    assert ingest(config_of(tars, dataset="copy"), folder_store) == older
