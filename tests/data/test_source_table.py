"""Tables: separators, columns, cells, and images by path or as bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from source_helpers import captions, collect, level_of, open_kind, picture, reasons, write_files

from drrho_clip.data.sources.rows import ParquetRows
from drrho_clip.errors import ConfigError, DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with images/0.png to images/4.png."""
    return write_files(tmp_path, {f"images/{number}.png": picture(10 * number) for number in range(5)})


def write_table(folder: Path, text: str | bytes, name: str = "data.csv") -> Path:
    return write_files(folder, {name: text}) / name


@pytest.mark.parametrize(
    ("text", "name", "separator"),
    [
        pytest.param("filepath,title\nimages/0.png,a cat\nimages/1.png,a dog\n", "data.csv", "comma", id="comma"),
        pytest.param("filepath\ttitle\nimages/0.png\ta cat\nimages/1.png\ta dog\n", "data.tsv", "tab", id="tab"),
        pytest.param("filepath\ttitle\nimages/0.png\ta cat\nimages/1.png\ta dog\n", "data.csv", "tab", id="tab named csv"),
        pytest.param("filepath;title\nimages/0.png;a cat\nimages/1.png;a dog\n", "data.csv", "semicolon", id="semicolon"),
        pytest.param("filepath|title\nimages/0.png|a cat\nimages/1.png|a dog\n", "data.txt", "bar", id="bar"),
        pytest.param("\ufefffilepath,title\r\nimages/0.png,a cat\r\n\r\nimages/1.png,a dog\r\n", "d.csv", "comma", id="Windows"),
        pytest.param("filepath\ttitle\nimages/0.png\ta cat\nimages/1.png\ta dog\n".encode("utf-16"), "d.csv", "tab", id="UTF-16"),
        pytest.param('"filepath","title"\n"images/0.png","a cat"\n"images/1.png","a dog"\n', "d.csv", "comma", id="quoted"),
        pytest.param("TITLE,FilePath\na cat,images/0.png\na dog,images/1.png\n", "d.csv", "comma", id="case of the names"),
        pytest.param("n;image,path;caption\n1;images/0.png;a cat\n2;images/1.png;a dog\n", "d.csv", None, id="odd header"),
    ],
)
def test_separators_are_guessed_and_logged(images: Path, text: str | bytes, name: str, separator: str | None) -> None:
    settings = {} if separator else {"image_field": "image,path"}
    with structlog.testing.capture_logs() as logs:
        source = open_kind("table", write_table(images, text, name), **settings)
    assert [entry["read_as"] for entry in logs if entry["event"] == "table_opened"] == [f"separator {separator or 'semicolon'}"]
    assert captions(source) == {"images/0.png": "a cat", "images/1.png": "a dog"}
    assert source.total() == 2


def test_known_names_decide_between_separators(images: Path) -> None:
    text = "image;title,en,fr\nimages/0.png;one,two,three\n"
    assert captions(open_kind("table", write_table(images, text), caption_field="title,en,fr")) == {
        "images/0.png": "one,two,three"
    }


def test_separators_within_cells_do_not_mislead(images: Path) -> None:
    text = (
        'caption;path\n"a cat, a dog, and; a bird";images/0.png\n"one, two\nthree";images/1.png\n"say ""hi"", you";images/2.png\n'
    )
    assert captions(open_kind("table", write_table(images, text))) == {
        "images/0.png": "a cat, a dog, and; a bird",
        "images/1.png": "one, two three",
        "images/2.png": 'say "hi", you',
    }


@pytest.mark.parametrize("separator", ["tab", "\\t", "\t"])
def test_separators_can_be_given(images: Path, separator: str) -> None:
    text = "path\tcaption\nimages/0.png\ta, b\n"
    assert captions(open_kind("table", write_table(images, text), separator=separator)) == {"images/0.png": "a, b"}


@pytest.mark.parametrize("separator", ["::", '"', "comma"])
def test_impossible_separators_are_refused(images: Path, separator: str) -> None:
    with pytest.raises(ConfigError, match="cannot separate columns"):
        open_kind("table", write_table(images, "path,caption\nimages/0.png,a\n"), separator=separator)


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        pytest.param(
            "filepath,title\nimages/0.png,a\n",
            {"separator": "\t"},
            ["filepath,title", "separator tab", "`separator`", "caption_field"],
            id="read with the wrong separator",
        ),
        pytest.param(
            "path,words\nimages/0.png,a\n", {}, ["caption, text, title", "path, words", "`caption_field`"], id="no caption"
        ),
        pytest.param(
            "picture,caption\nimages/0.png,a\n", {}, ["could be the image", "picture, caption", "image_field"], id="no image"
        ),
        pytest.param(
            "path,captions\nimages/0.png,a\n",
            {"caption_field": "caption"},
            ["no column 'caption'", "separator comma", "Did you mean captions?"],
            id="misspelt",
        ),
        pytest.param(
            "path,caption\nimages/0.png,a\n", {"class_field": "label"}, ["no column 'label'", "class_field"], id="no class"
        ),
        pytest.param(
            "path,caption\nimages/0.png,a\n", {"split_field": "part"}, ["no column 'part'", "split_field"], id="no split"
        ),
        pytest.param("", {}, ["empty"], id="empty file"),
        pytest.param("path,caption\n", {}, ["holds no image"], id="header alone"),
        pytest.param("path,caption\n,a\n,b\n", {}, ["holds no image", "column 'path'"], id="no image in any row"),
        pytest.param(
            "path,caption\nx/0.png,a\nx/1.png,b\n", {}, ["None of the first 2 files", "x/0.png", "relative to"], id="wrong folder"
        ),
    ],
)
def test_what_is_missing_is_named_at_once(images: Path, text: str, settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        open_kind("table", write_table(images, text), **settings)
    assert [word for word in words if word not in str(caught.value)] == []


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        open_kind("table", tmp_path / "data.csv")


def test_bad_rows_are_named_and_the_others_kept(images: Path) -> None:
    rows = [
        *("path,caption", "images/0.png,good", "images/1.png,", "images/2.png,   ", "images/3.png,nan", "images/9.png,gone"),
        *("images/4.png", ",nobody", "images/5.png,a,b", "images/6.png,None"),
    ]
    source = open_kind("table", write_table(images, "\n".join(rows)))
    assert captions(source) == {"images/0.png": "good"}
    assert reasons(source) == {
        "images/1.png": "empty_caption",
        "images/2.png": "empty_caption",
        "images/3.png": "no_caption",
        "images/9.png": "unreadable",
        "images/4.png": "no_caption",
        "row 6": "no_image",
        "row 7": "malformed_row",
        "images/6.png": "unreadable",
    }


def test_rows_joined_by_an_unclosed_quote_are_named(images: Path) -> None:
    text = (
        'path\tcaption\nimages/0.png\tgood\nimages/1.png\t"open\nimages/2.png\tlost\nimages/3.png\talso "\nimages/4.png\tgood\n'
    )
    source = open_kind("table", write_table(images, text))
    assert set(captions(source)) == {"images/0.png", "images/4.png"}
    (rejected,) = collect(source)[1].values()
    assert rejected.reason == "malformed_row"
    assert "line 5: an unclosed quote" in rejected.detail


def test_a_quote_that_never_closes_ends_the_reading(images: Path) -> None:
    text = 'path,caption\nimages/0.png,"open\n' + "images/1.png,more\n" * 20_000
    with pytest.raises(DataError, match=r"cannot be read: field larger .*unclosed quote"):
        open_kind("table", write_table(images, text))


def test_cells_that_are_not_utf8(images: Path) -> None:
    text = b"path,caption\nimages/0.png,caf\x92\nimages/1.png,caf\x81\nimages/2.png,caf\xc3\xa9\n"
    samples, rejected = collect(open_kind("table", write_table(images, text)))
    assert {key: (sample.caption, bool(sample.extra)) for key, sample in samples.items()} == {
        "images/0.png": ("caf’", True),
        "images/2.png": ("café", False),
    }
    assert {key: item.reason for key, item in rejected.items()} == {"images/1.png": "caption_encoding"}


def test_class_split_and_several_captions_of_one_image(images: Path) -> None:
    rows = ["images/0.png,one,cat,train", "images/0.png,two,,test", "images/1.png,three,dog,dev", "images/2.png,four,x,y"]
    text = "\n".join(["path,caption,kind,part", *rows])
    samples, rejected = collect(open_kind("table", write_table(images, text), class_field="kind", split_field="part"))
    assert {key: (s.caption, s.class_name, s.split) for key, s in samples.items()} == {
        "images/0.png": ("one", "cat", "train"),
        "images/0.png#2": ("two", None, "heldout"),
        "images/1.png": ("three", "dog", "validation"),
    }
    assert rejected["images/2.png"].reason == "split"


def test_folder_of_the_path_as_class(images: Path) -> None:
    samples, _ = collect(open_kind("table", write_table(images, "path,caption\nimages/0.png,a\n"), class_field="{parent}"))
    assert samples["images/0.png"].class_name == "images"


def test_absolute_paths(images: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "elsewhere", f"path,caption\n{images}/images/3.png,a\n")
    samples, _ = collect(open_kind("table", table))
    assert level_of(samples[f"{images}/images/3.png"].load()) == 30


def test_order_of_listed_rows_is_mixed_and_seeded(images: Path) -> None:
    rows = "".join(f"images/{number % 5}.png,c{number}\n" for number in range(60))
    table = write_table(images, "path,caption\n" + rows)

    def order(seed: int) -> list[str]:
        return [item.key for item in open_kind("table", table, seed=seed).samples(())]

    assert order(0) == order(0) != order(1)
    assert order(0) != sorted(order(0))


def write_parquet(path: Path, columns: dict[str, Any], rows_per_group: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return path


@pytest.mark.parametrize("form", ["bytes", "large bytes", "struct", "paths", "struct of paths"])
def test_parquet_images_in_every_form(images: Path, form: str) -> None:
    data = [picture(10 * number) for number in range(5)]
    paths = [f"images/{number}.png" for number in range(5)]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = {
        "bytes": pa.array(data),
        "large bytes": pa.array(data, pa.large_binary()),
        "struct": pa.array([{"bytes": item, "path": None} for item in data], struct),
        "paths": pa.array(paths),
        "struct of paths": pa.array([{"bytes": None, "path": item} for item in paths], struct),
    }[form]
    table = write_parquet(images / "data.parquet", {"image": column, "caption": [f"c{number}" for number in range(5)]})
    source = open_kind("table", table)
    samples, rejected = collect(source)
    assert rejected == {}
    assert source.total() == 5
    keys = paths if "paths" in form else [f"{number:09d}" for number in range(5)]
    assert {key: (s.caption, level_of(s.load())) for key, s in samples.items()} == {
        key: (f"c{number}", 10 * number) for number, key in enumerate(keys)
    }


def test_parquet_cells_that_are_missing_or_of_other_kinds(tmp_path: Path) -> None:
    good = picture()
    table = write_parquet(
        tmp_path / "data.parquet",
        {
            "image": [good, None, good, good, good],
            "caption": pa.array(["good", "no image", None, "nan", " "]).dictionary_encode(),
            "label": [1.0, None, 3.0, 4.0, 5.0],
        },
    )
    samples, rejected = collect(open_kind("table", table, class_field="label"))
    assert {key: (s.caption, s.class_name) for key, s in samples.items()} == {"000000000": ("good", "1")}
    assert {key: item.reason for key, item in rejected.items()} == {
        "000000001": "no_image",
        "000000002": "no_caption",
        "000000003": "no_caption",
        "000000004": "empty_caption",
    }


def test_parquet_numbers_are_no_captions(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "data.parquet", {"image": [picture()], "caption": [float("nan")]})
    assert reasons(open_kind("table", table)) == {"000000000": "no_caption"}
    table = write_parquet(tmp_path / "other.parquet", {"image": [picture()], "caption": [[1, 2]]})
    assert reasons(open_kind("table", table)) == {"000000000": "caption_field"}


def test_parquet_strings_that_are_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"caf\x92", b"fine"])
    strings = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    table = write_parquet(tmp_path / "data.parquet", {"image": [picture(), picture()], "caption": strings})
    samples, _ = collect(open_kind("table", table))
    assert {sample.caption: bool(sample.extra) for sample in samples.values()} == {"caf’": True, "fine": False}


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    """60 rows with image bytes in 6 row groups."""
    columns = {"image": [picture(number) for number in range(60)], "caption": [f"c{number}" for number in range(60)]}
    return write_parquet(tmp_path / "data.parquet", columns, rows_per_group=10)


def test_row_groups_come_in_a_seeded_order(grouped: Path) -> None:
    def order(seed: int) -> list[int]:
        return [int(item.key) for item in open_kind("table", grouped, seed=seed).samples(())]

    assert sorted(order(0)) == list(range(60))
    assert order(0) == order(0)
    assert order(0) != order(1)
    groups = [number // 10 for number in order(0)]
    assert [groups[i] for i in range(0, 60, 10)] == list(dict.fromkeys(groups)) != sorted(set(groups))


def test_known_row_groups_are_not_read_again(grouped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = ParquetRows.batches
    source = open_kind("table", grouped)
    monkeypatch.setattr(ParquetRows, "batches", lambda rows, group, columns: read.append(group) or real(rows, group, columns))
    known = {f"{number:09d}" for number in range(60) if number != 25}
    samples, _ = collect(source, known)
    assert set(samples) == {"000000025"}
    assert read == [2]


@pytest.mark.parametrize("damage", ["cut", "middle"])
def test_a_broken_parquet_file_is_named(grouped: Path, damage: str) -> None:
    data = bytearray(grouped.read_bytes())
    if damage == "cut":
        grouped.write_bytes(data[: len(data) // 2])
    else:
        data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
        grouped.write_bytes(data)
    with pytest.raises(DataError, match=r"Parquet file cannot be read.*data\.parquet"):
        collect(open_kind("table", grouped))
