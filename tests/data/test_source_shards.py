"""Existing tars: finding, fetching and pairing, and every way in which they can be broken."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_helpers import Members, captions, check_pairs, collect, open_kind, pair, picture, reasons, shard, write_tar

from drrho_clip.data.sources.pairing import pair_members
from drrho_clip.data.sources.tars import Member
from drrho_clip.errors import DataError

KEYS = ("cat v2.0", "cat v2.1", "22.05", "d.v1/1", "e.v1/1", "train/a.b/0001")


@pytest.mark.parametrize("layout", ["side by side", "images first", "texts first", "reversed", "leading dot"])
def test_names_with_dots_and_folders_are_paired_rightly(tmp_path: Path, layout: str) -> None:
    levels = {key: 10 * number for number, key in enumerate(KEYS)}
    members = [member for key, level in levels.items() for member in pair(key, level)]
    arranged: dict[str, Members] = {
        "side by side": members,
        "images first": members[::2] + members[1::2],
        "texts first": members[1::2] + members[::2],
        "reversed": members[::-1],
        "leading dot": [(f"./{name}", data) for name, data in members],
    }
    path = write_tar(tmp_path / "x.tar", arranged[layout])
    check_pairs(open_kind("shards", path), levels)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whatever_the_names_and_their_order_each_image_gets_its_own_text(data: st.DataObject) -> None:
    name = st.text("ab1. -_", min_size=1, max_size=6).filter(lambda text: not text.startswith("."))
    keys = data.draw(st.lists(st.lists(name, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12, unique=True))
    names = data.draw(st.permutations([key + ending for key in keys for ending in (".png", ".txt")]))
    members = [Member(name, 512 * number, 1) for number, name in enumerate(names)]
    pairing = pair_members(members, "x.tar", lambda member: False)
    assert pairing.rejected == []
    assert {pair.key for pair in pairing.pairs} == set(keys)
    for found in pairing.pairs:
        assert found.text is not None
        assert (found.image.name, found.text.name) == (f"{found.key}.png", f"{found.key}.txt")


def test_samples_come_in_the_order_of_the_tars(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number:03d}.tar", range(10 * number, 10 * number + 10))
    assert list(captions(open_kind("shards", tmp_path))) == [f"{key:06d}" for key in range(30)]


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "JPG", "png", "webp", "gif", "bmp", "tif", "tiff", "img", "bin", "jpg_large"])
def test_image_endings(tmp_path: Path, ending: str) -> None:
    write_tar(tmp_path / "x.tar", pair("a", 20, ending) + pair("b", 40, ending))
    check_pairs(open_kind("shards", tmp_path / "x.tar"), {"a": 20, "b": 40})


def test_a_mixed_set_is_read_whole(tmp_path: Path) -> None:
    for ending in ("jpg", "jpeg", "webp"):
        write_tar(tmp_path / f"{ending}.tar", [member for n in range(10) for member in pair(f"{ending}{n}", 10 * n, ending)])
    check_pairs(open_kind("shards", tmp_path), {f"{ending}{n}": 10 * n for ending in ("jpg", "jpeg", "webp") for n in range(10)})


def test_other_members_do_not_matter(tmp_path: Path) -> None:
    extras = [("a.npy", b"\x93NUMPY"), ("a.pyd", b""), (".DS_Store", b"x"), ("._a.png", picture()), ("__MACOSX/a.txt", "x")]
    path = write_tar(tmp_path / "x.tar", extras[:2] + pair("a", 10) + extras[2:])
    check_pairs(open_kind("shards", path), {"a": 10})


@pytest.mark.parametrize("ending", ["txt", "text", "caption", "TXT"])
def test_text_endings(tmp_path: Path, ending: str) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.png", picture()), (f"a.{ending}", "a cat")])
    assert captions(open_kind("shards", path)) == {"a": "a cat"}


@pytest.mark.parametrize(
    ("members", "options", "expected"),
    [
        pytest.param([("a.json", {"caption": "a cat"})], {}, ("a cat", None, None), id="json"),
        pytest.param([("a.json", {"title": "x", "alt": "a cat"})], {"caption_field": "alt"}, ("a cat", None, None), id="field"),
        pytest.param([("a.txt", "a cat"), ("a.json", {"caption": "other"})], {}, ("a cat", None, None), id="text before json"),
        pytest.param(
            [("a.txt", "other"), ("a.json", {"alt": "a cat"})],
            {"caption_field": "alt"},
            ("a cat", None, None),
            id="field before text",
        ),
        pytest.param([("a.txt", "a cat"), ("a.cls", "7\n")], {}, ("a cat", "7", None), id="cls"),
        pytest.param(
            [("a.txt", "a cat"), ("a.json", {"label": "pet", "part": "test"}), ("a.cls", "7")],
            {"class_field": "label", "split_field": "part"},
            ("a cat", "pet", "heldout"),
            id="class and split",
        ),
        pytest.param([("a.txt", "a cat"), ("a.cls", "7")], {"class_field": "label"}, ("a cat", "7", None), id="no json"),
    ],
)
def test_captions_classes_and_splits(
    tmp_path: Path, members: Members, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.png", picture()), *members])
    samples, rejected = collect(open_kind("shards", path, **options))
    assert rejected == {}
    assert (samples["a"].caption, samples["a"].class_name, samples["a"].split) == expected


def test_folder_as_class(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", pair("big_cats/1") + pair("birds/1"))
    samples, _ = collect(open_kind("shards", path, class_field="{parent}"))
    assert {key: sample.class_name for key, sample in samples.items()} == {"big_cats/1": "big cats", "birds/1": "birds"}


@pytest.mark.parametrize(
    ("image", "text"), [("x.input.png", "x.outputs.txt"), ("x.png", "x.caption.txt"), ("x.image.png", "x.meta.json")]
)
def test_compound_endings_are_accepted_where_one_image_and_one_text_can_be_meant(tmp_path: Path, image: str, text: str) -> None:
    members: Members = []
    for number, key in enumerate(("x", "d.v1/y", "v2.0")):
        content: Any = {"caption": f"caption of {key}"} if text.endswith("json") else f"caption of {key}"
        members += [(image.replace("x", key, 1), picture(10 * number)), (text.replace("x", key, 1), content)]
    check_pairs(open_kind("shards", write_tar(tmp_path / "x.tar", members)), {"x": 0, "d.v1/y": 10, "v2.0": 20})


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param(
            [("x.input.png", 1), ("x.target.png", 2), ("x.outputs.txt", "t")],
            {"x.input": "not_paired", "x.target": "not_paired", "x.outputs": "not_paired"},
            id="two images",
        ),
        pytest.param(
            [("x.input.png", 1), ("x.en.txt", "t"), ("x.fr.txt", "u")],
            {"x.input": "not_paired", "x.en": "not_paired", "x.fr": "not_paired"},
            id="two texts",
        ),
        pytest.param([("x v2.0.png", 1), ("x v2.1.txt", "t")], {"x v2.0": "no_caption", "x v2.1": "no_image"}, id="versions"),
        pytest.param(
            [("x.left.png", 1), ("x.up.txt", "t"), ("y.right.png", 2), ("y.down.txt", "u")],
            {"x.left": "not_paired", "x.up": "not_paired", "y.right": "not_paired", "y.down": "not_paired"},
            id="different words",
        ),
        pytest.param([("x.png", 1), ("x.webp", 2), ("x.txt", "t")], {"x": "not_paired"}, id="two images of one name"),
        pytest.param([("x.png", 1), ("x.txt", "t"), ("x.caption", "u")], {"x": "not_paired"}, id="two texts of one name"),
        pytest.param([("x.png", 1)], {"x": "no_caption"}, id="image alone"),
        pytest.param([("x.txt", "t")], {"x": "no_image"}, id="text alone"),
        pytest.param([("x.png", 1), ("x.txt", "")], {"x": "empty_caption"}, id="empty caption"),
        pytest.param([("x.png", 1), ("x.txt", b"\x81")], {"x": "caption_encoding"}, id="no encoding"),
        pytest.param([("x.png", 1), ("x.json", "{")], {"x": "caption_field"}, id="broken json"),
        pytest.param([("x.png", 1), ("x.json", {"caption": None})], {"x": "no_caption"}, id="null"),
        pytest.param([("x.png", 1), ("x.cls", "3")], {"x": "no_caption"}, id="class without caption"),
    ],
)
def test_what_cannot_be_paired_is_named_and_never_guessed(tmp_path: Path, members: Members, expected: dict[str, str]) -> None:
    given = [(name, picture(content) if isinstance(content, int) else content) for name, content in members]
    path = write_tar(tmp_path / "x.tar", [*given, *pair("good", 30)])
    source = open_kind("shards", path)
    assert reasons(source) == expected
    assert captions(source) == {"good": "caption of good"}


def test_windows_1252_is_repaired_and_marked(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.png", picture()), ("a.txt", b"caf\x92")])
    samples, _ = collect(open_kind("shards", path))
    assert (samples["a"].caption, samples["a"].extra) == ("caf’", {"caption_repaired": "windows-1252"})


def test_a_member_that_comes_twice_is_fatal(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [*pair("y"), ("x.png", picture(1)), ("x.txt", "t"), ("x.png", picture(2))])
    with pytest.raises(DataError, match=r"member 'x\.png' comes twice.*x\.tar"):
        collect(open_kind("shards", path))


def test_one_key_in_two_tars_is_fatal(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", range(3))
    shard(tmp_path / "1.tar", range(2, 5))
    with pytest.raises(DataError, match=r"key '000002'.*0\.tar and .*1\.tar"):
        collect(open_kind("shards", tmp_path))
    with pytest.raises(DataError, match="key '000002'"):
        collect(open_kind("shards", tmp_path), known={f"{key:06d}" for key in range(5)})


def test_known_keys_are_left_out(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", range(5))
    samples, rejected = collect(open_kind("shards", path), known={"000001", "000003"})
    assert (list(samples), rejected) == (["000000", "000002", "000004"], {})
    assert collect(open_kind("shards", path), known={f"{key:06d}" for key in range(5)}) == ({}, {})


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([("1.jpg", picture()), ("1.cls", "3")], ["4 .jpg, 4 .cls", "4 no_caption"], id="labels for captions"),
        pytest.param([("1.txt", "t")], ["4 .txt", "4 no_image"], id="captions alone"),
        pytest.param([("1.npy", b"x")], ["4 .npy", "Dropped: none"], id="neither"),
        pytest.param(
            [("1.jpg", picture()), ("1.json", {"a": "b"})], ["4 no_caption", "`caption_field`"], id="json without caption"
        ),
    ],
)
def test_nothing_usable_ends_at_once_with_what_was_found(tmp_path: Path, members: Members, words: list[str]) -> None:
    for number in range(5):
        write_tar(
            tmp_path / f"{number}.tar",
            [(f"{number}{n}-{name}", data) for n in range(2 if number == 0 else 1) for name, data in members],
        )
    source = open_kind("shards", tmp_path)
    with pytest.raises(DataError) as caught:
        collect(source)
    expected = ["No usable sample in the first 3 tars", "0.tar", ".webp", ".caption", *words]
    assert [word for word in expected if word not in str(caught.value)] == []


def test_an_empty_tar_among_others_is_no_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [])
    shard(tmp_path / "1.tar", range(2))
    assert len(captions(open_kind("shards", tmp_path))) == 2


def ten_samples() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(10):
            for ending, data in (("png", os.urandom(3000)), ("txt", b"caption")):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


SAMPLE = 512 + 6 * 512 + 512 + 512  # header and 3,000 bytes, header and 7 bytes, in blocks


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(
            lambda d: d[: 6 * SAMPLE + 2000], ["broken at byte", "ends within a member", "6 whole samples"], id="in a member"
        ),
        pytest.param(lambda d: d[: 6 * SAMPLE + 100], [f"broken at byte {6 * SAMPLE}", "6 whole samples"], id="in a header"),
        pytest.param(
            lambda d: d[: 6 * SAMPLE], [f"byte {6 * SAMPLE}", "end mark is missing", "6 whole samples"], id="between members"
        ),
        pytest.param(
            lambda d: d[: 9 * SAMPLE + 512 + 6 * 512 + 512 + 3], ["ends within a member", "9 whole samples"], id="in a text"
        ),
        pytest.param(
            lambda d: d[: 4 * SAMPLE] + b"\xff" * 512 + d[4 * SAMPLE + 512 :],
            [f"broken at byte {4 * SAMPLE}", "no member header", "4 whole samples"],
            id="header overwritten",
        ),
        pytest.param(lambda d: d + d, ["another archive follows", "10 whole samples"], id="two tars in one"),
        pytest.param(lambda d: b"", ["no tar"], id="empty file"),
        pytest.param(lambda d: d[:300], ["no tar"], id="first header cut"),
        pytest.param(lambda d: b"<html>Not found</html>" * 100, ["no tar", "<html>"], id="web page"),
        pytest.param(gzip.compress, ["packed with gzip", "Unpack"], id="gzip"),
    ],
)
def test_broken_tars_are_named_before_anything_of_them_is_used(
    tmp_path: Path, damage: Callable[[bytes], bytes], words: list[str]
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(damage(ten_samples()))
    source = open_kind("shards", path)
    with pytest.raises(DataError) as caught:
        next(iter(source.samples(())))
    assert [word for word in [*words, str(path)] if word not in str(caught.value)] == []


def test_long_names_and_other_kinds_of_members(tmp_path: Path) -> None:
    name = "folder/" + "long" * 60
    for number, tar_format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=tar_format) as tar:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for ending, data in (("png", picture(30)), ("txt", f"caption of {name}{number}".encode())):
                info = tarfile.TarInfo(f"{name}{number}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    check_pairs(open_kind("shards", tmp_path), {f"{name}0": 30, f"{name}1": 30})
