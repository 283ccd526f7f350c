"""Images in a folder: what is found, how it is paired, and what its captions become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from source_helpers import captions, collect, level_of, open_kind, picture, reasons, write_files

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources import open_source
from drrho_clip.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("image", "text", "key"),
    [
        ("cat.png", "cat.txt", "cat"),
        ("cat v2.0.jpg", "cat v2.0.txt", "cat v2.0"),
        ("d.v1/1.jpg", "d.v1/1.txt", "d.v1/1"),
        ("a/b/c.JPEG", "a/b/c.TXT", "a/b/c"),
        ("cat.jpg", "cat.jpg.txt", "cat"),
        ("photo", "photo.txt", "photo"),
        ("photo.jpg_large", "photo.jpg_large.txt", "photo.jpg_large"),
        ("2024.05.01", "2024.05.01.txt", "2024.05.01"),
    ],
)
def test_images_are_paired_with_their_text(tmp_path: Path, image: str, text: str, key: str) -> None:
    write_files(tmp_path, {image: picture(50), text: "a cat"})
    samples, rejected = collect(open_kind("folder", tmp_path))
    assert rejected == {}
    assert {name: sample.caption for name, sample in samples.items()} == {key: "a cat"}
    assert level_of(samples[key].load()) == 50


def test_neighbours_with_dots_keep_their_own_captions(tmp_path: Path) -> None:
    names = ("cat v2.0", "cat v2.1", "cat v2", "d.v1/1", "e.v1/1")
    files = {f"{name}.jpg": picture(10 * i) for i, name in enumerate(names)} | {f"{name}.txt": name for name in names}
    samples, _ = collect(open_kind("folder", write_files(tmp_path, files)))
    assert {key: (sample.caption, level_of(sample.load())) for key, sample in samples.items()} == {
        name: (name, 10 * i) for i, name in enumerate(names)
    }


@pytest.mark.parametrize(
    "ending", ["jpg", "jpeg", "JPG", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "pgm", "tga"]
)
def test_image_endings(tmp_path: Path, ending: str) -> None:
    write_files(tmp_path, {f"x.{ending}": picture(), "x.txt": "a square"})
    assert captions(open_kind("folder", tmp_path)) == {"x": "a square"}


def test_two_images_of_one_name_keep_their_endings(tmp_path: Path) -> None:
    write_files(tmp_path, {"x.jpg": picture(10), "x.png": picture(20), "x.txt": "both", "y.png": picture(30), "y.txt": "one"})
    assert captions(open_kind("folder", tmp_path)) == {"x.jpg": "both", "x.png": "both", "y": "one"}


@pytest.mark.parametrize(
    ("content", "settings", "caption"),
    [
        ('{"caption": "a cat", "title": "other"}', {}, "a cat"),
        ('{"text": "a cat"}', {}, "a cat"),
        ('{"title": "a cat"}', {}, "a cat"),
        ('{"alt": "a cat", "caption": "other"}', {"caption_field": "alt"}, "a cat"),
    ],
)
def test_captions_from_json(tmp_path: Path, content: str, settings: dict[str, Any], caption: str) -> None:
    write_files(tmp_path, {"x.png": picture(), "x.json": content})
    assert captions(open_kind("folder", tmp_path, **settings)) == {"x": caption}


def test_json_beside_text_gives_class_and_split(tmp_path: Path) -> None:
    write_files(tmp_path, {"x.png": picture(), "x.txt": "a cat", "x.json": '{"label": 3, "part": "val", "caption": "other"}'})
    samples, _ = collect(open_kind("folder", tmp_path, class_field="label", split_field="part"))
    assert (samples["x"].caption, samples["x"].class_name, samples["x"].split) == ("a cat", "3", "validation")


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        pytest.param("\ufeffa cat", "a cat", id="byte order mark"),
        pytest.param("  a\r\n\tcat \x00 and\u2028dog\n", "a cat and dog", id="control characters"),
        pytest.param("a cat".encode("utf-16"), "a cat", id="UTF-16"),
        pytest.param("Élan, 猫, 🐱", "Élan, 猫, 🐱", id="beyond ASCII"),
        pytest.param("nan people", "nan people", id="nan as a word"),
    ],
)
def test_captions_are_cleaned(tmp_path: Path, content: str | bytes, caption: str) -> None:
    write_files(tmp_path, {"x.png": picture(), "x.txt": content})
    samples, _ = collect(open_kind("folder", tmp_path))
    assert samples["x"].caption == caption
    assert samples["x"].extra == {}


def test_windows_1252_is_repaired_and_marked(tmp_path: Path) -> None:
    write_files(tmp_path, {"x.png": picture(), "x.txt": b"caf\x92s caf\xe9"})
    samples, _ = collect(open_kind("folder", tmp_path))
    assert samples["x"].caption == "caf’s café"
    assert samples["x"].extra == {"caption_repaired": "windows-1252"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.txt", "", "empty_caption"),
        ("x.txt", " \t\r\n\x00\ufeff ", "empty_caption"),
        ("x.txt", b"caf\x81", "caption_encoding"),
        ("x.txt", "nan", "no_caption"),
        ("x.txt", "None\n", "no_caption"),
        ("x.json", '{"caption": null}', "no_caption"),
        ("x.json", '{"caption": NaN}', "no_caption"),
        ("x.json", '{"caption": "\\ud800"}', "caption_encoding"),
        ("x.json", '{"caption": ["a", "b"]}', "caption_field"),
        ("x.json", '{"other": "a cat"}', "no_caption"),
        ("x.json", '["a cat"]', "caption_field"),
        ("x.json", '{"caption": ', "caption_field"),
        ("x.json", "[" * 100_000, "caption_field"),
        ("y.txt", "another", "no_caption"),
    ],
)
def test_unusable_captions_are_named(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    write_files(tmp_path, {"x.png": picture(), name: content, "good.png": picture(), "good.txt": "good"})
    source = open_kind("folder", tmp_path)
    assert reasons(source) == {"x": reason}
    assert captions(source) == {"good": "good"}


def test_a_split_of_unknown_name_is_rejected(tmp_path: Path) -> None:
    write_files(tmp_path, {"x.png": picture(), "x.json": '{"caption": "a", "part": "trian"}'})
    _, rejected = collect(open_kind("folder", tmp_path, split_field="part"))
    assert rejected["x"].reason == "split"
    assert "'trian'" in rejected["x"].detail


@pytest.mark.parametrize(
    ("path", "template", "caption"),
    [
        ("animals/birds/snow_owl-big_01.png", "{stem}", "snow owl big 01"),
        ("animals/birds/snow_owl-big_01.png", "a {stem} among {parent}", "a snow owl big 01 among birds"),
        ("animals/birds/snow_owl_01.png", "{path}", "animals birds snow owl 01"),
        ("animals/birds/snow_owl_01.png", "{words}", "snow owl birds animals"),
        ("signs_and_symbols/clocks/Clock_and_sign__3_.png", "{words}", "Clock and sign clocks signs symbols"),
        ("owl.v2 (copy).png", "{stem}", "owl v2 copy"),
    ],
)
def test_captions_from_the_path(tmp_path: Path, path: str, template: str, caption: str) -> None:
    write_files(tmp_path, {path: picture()})
    assert list(captions(open_kind("folder", tmp_path, caption_template=template)).values()) == [caption]


def test_a_path_without_words_is_rejected(tmp_path: Path) -> None:
    write_files(tmp_path, {"001.png": picture(), "cat.png": picture()})
    source = open_kind("folder", tmp_path, caption_template="{words}")
    assert reasons(source) == {"001": "empty_caption"}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{stm}", ["{stm}", "Did you mean stem?"]),
        ("a photo", ["same caption", "{stem}"]),
        ("{stem", ["malformed"]),
        ("{}", ["unknown placeholder {}"]),
        ("{stem.__class__}", ["unknown placeholder"]),
    ],
)
def test_wrong_templates_are_refused(tmp_path: Path, template: str, words: list[str]) -> None:
    write_files(tmp_path, {"x.png": picture()})
    with pytest.raises(ConfigError) as caught:
        open_kind("folder", tmp_path, caption_template=template)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("field", "classes"), [("{parent}", {"big cats", "birds", None}), ("{top}", {"animals", None}), ("", {None})]
)
def test_folders_as_classes(tmp_path: Path, field: str, classes: set[str | None]) -> None:
    files = {"animals/big_cats/tiger.png": picture(), "animals/birds/owl.png": picture(), "moon.png": picture()}
    source = open_kind("folder", write_files(tmp_path, files), caption_template="{stem}", class_field=field)
    samples, _ = collect(source)
    assert {sample.class_name for sample in samples.values()} == classes
    assert source.classnames == tuple(sorted(classes - {None}))


def many(tmp_path: Path, count: int) -> Path:
    return write_files(tmp_path, {f"n{number:03d}.png": picture() for number in range(count)})


def test_order_is_mixed_and_depends_on_keys_and_seed_alone(tmp_path: Path) -> None:
    def order(seed: int) -> list[str]:
        return [item.key for item in open_kind("folder", tmp_path, caption_template="{stem}", seed=seed).samples(())]

    many(tmp_path, 40)
    before, other = order(1), order(2)
    assert before == order(1)
    assert before != sorted(before)
    assert other != before
    write_files(tmp_path, {"later.png": picture()})
    assert [key for key in order(1) if key != "later"] == before


def test_known_keys_are_left_out(tmp_path: Path) -> None:
    source = open_kind("folder", many(tmp_path, 5), caption_template="{stem}")
    samples, _ = collect(source, known={"n000", "n003"})
    assert set(samples) == {"n001", "n002", "n004"}
    assert source.total() == 5


def test_hidden_files_litter_and_link_circles_are_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, {name: picture() for name in ("x.png", ".x.png", "._x.png", ".git/y.png", "__MACOSX/z.png")})
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert captions(open_kind("folder", tmp_path, caption_template="{stem}")) == {"x": "x"}


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", {"x.png": picture()})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert captions(open_kind("folder", tmp_path / "data", caption_template="{stem}")) == {"link/x": "x"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(name)).write_bytes(picture(30))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    samples, _ = collect(open_kind("folder", tmp_path, caption_template="{stem}"))
    assert list(samples) == ["caf\\xe9"]
    assert level_of(samples["caf\\xe9"].load()) == 30


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param(None, ["does not exist"], id="no such folder"),
        pytest.param({}, ["No image found", "nothing"], id="empty folder"),
        pytest.param({"a.txt": "x", "b.txt": "y", "c.npy": "z"}, ["No image found", "2 .txt, 1 .npy"], id="no images"),
        pytest.param(
            {"a.png": picture(), "b.png": picture(), "readme.txt": "x"},
            ["None of 2 images has a caption", "2 .png, 1 .txt", "caption_template"],
            id="no captions",
        ),
    ],
)
def test_folders_without_data_are_named(tmp_path: Path, files: dict[str, str | bytes] | None, words: list[str]) -> None:
    folder = tmp_path / "data"
    if files is not None:
        folder.mkdir()
        write_files(folder, files)
    with pytest.raises(DataError) as caught:
        open_kind("folder", folder)
    assert all(word in str(caught.value) for word in [*words, str(folder)])


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"x.png": picture()})
    with pytest.raises(DataError, match="is a file, not a folder"):
        open_kind("folder", tmp_path / "x.png")


@pytest.mark.parametrize("source", ["folder", "table", "shards"])
def test_a_source_without_its_path(source: str) -> None:
    with pytest.raises(ConfigError, match=f"The source '{source}' needs `path`"):
        open_source(IngestConfig.parse({"source": source}))
