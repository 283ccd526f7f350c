"""Tables of URLs: layouts, columns and keys, without any download but those of the last tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from bad_server import BadServer, image_for
from source_helpers import collect, open_kind, write_files

from drrho_clip.data.sources.urls import UrlSource
from drrho_clip.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


def table(folder: Path, text: str | bytes, name: str = "data.tsv") -> Path:
    return write_files(folder, {name: text}) / name


def jobs(path: Path, **settings: Any) -> list[tuple[str, str, str, str]]:
    """(key, URL, caption, expected sha256) of every row, without downloading it."""
    source = open_kind("table", path, **settings)
    assert isinstance(source, UrlSource)
    return [(job.payload.key, job.url, job.payload.caption, job.sha256) for job in source._jobs(())]  # type: ignore[misc]


def layout_of(path: Path, **settings: Any) -> dict[str, str]:
    with structlog.testing.capture_logs() as logs:
        open_kind("table", path, **settings)
    (entry,) = [entry for entry in logs if entry["event"] == "urls_found"]
    return {name: value for name, value in entry.items() if name not in ("event", "log_level")}


def test_cc12m(tmp_path: Path) -> None:
    """No header; URLs and captions hold commas and quotes that are not paired."""
    path = table(tmp_path, 'http://a.test/1,2.jpg?x=1,2\ta "cat, and\nhttp://a.test/2.jpg\ta dog" there\n')
    assert layout_of(path) == {"layout": "CC12M", "url": "url", "caption": "caption"}
    assert jobs(path) == [
        ("000000000", "http://a.test/1,2.jpg?x=1,2", 'a "cat, and', ""),
        ("000000001", "http://a.test/2.jpg", 'a dog" there', ""),
    ]


def test_cc3m(tmp_path: Path) -> None:
    path = table(tmp_path, "a cat\thttp://a.test/1.jpg\na dog\thttp://a.test/2.jpg\n")
    assert layout_of(path)["layout"] == "CC3M"
    assert [job[1:3] for job in jobs(path)] == [("http://a.test/1.jpg", "a cat"), ("http://a.test/2.jpg", "a dog")]


def parquet(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_datacomp(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        uid=["u1", "u2"],
        url=["http://a.test/1", "http://a.test/2"],
        text=["one", "two"],
        original_width=[10, 20],
        original_height=[10, 20],
        sha256=["AB" * 32, None],
    )
    assert layout_of(path) == {"layout": "DataComp", "url": "url", "caption": "text", "sha256": "sha256", "uid": "uid"}
    assert [job[1:] for job in jobs(path)] == [("http://a.test/1", "one", "ab" * 32), ("http://a.test/2", "two", "")]
    assert open_kind("table", path).total() == 2
    assert [job[3] for job in jobs(path, sha256_field="")] == ["", ""]


def test_laion(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", URL=["http://a.test/1"], TEXT=["one"], hash=[-5], similarity=[0.3], punsafe=[0.1], WIDTH=[3]
    )
    assert layout_of(path) == {"layout": "LAION", "url": "URL", "caption": "TEXT"}
    assert jobs(path) == [("000000000", "http://a.test/1", "one", "")]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("url,caption\nhttp://a.test/1,one\n", {}),
        ("title;image_url\none;http://a.test/1\n", {}),
        ("path,caption\nhttps://a.test/1,one\n", {}),
        ("link,words\nHTTP://a.test/1,one\n", {"image_field": "link", "caption_field": "words"}),
        ('"url","caption"\n"http://a.test/1","one"\n', {}),
    ],
)
def test_columns_by_name(tmp_path: Path, text: str, settings: dict[str, Any]) -> None:
    path = table(tmp_path, text, "data.csv")
    assert layout_of(path, **settings)["layout"] == "columns by name"
    ((_, url, caption, _),) = jobs(path, **settings)
    assert (url.lower().removeprefix("http").lstrip("s"), caption) == ("://a.test/1", "one")


@pytest.mark.parametrize("header", ["", "url\n", "URL\n"])
def test_a_list_of_urls_is_never_split(tmp_path: Path, header: str) -> None:
    path = table(tmp_path, f"{header}http://a.test/red_cat/a,b.jpg?x=1,2\n\n  http://a.test/two%20dogs.png \n", "urls.txt")
    assert layout_of(path, caption_template="{words}")["layout"] == "list of URLs"
    assert [job[:3] for job in jobs(path, caption_template="{words}")] == [
        ("000000000", "http://a.test/red_cat/a,b.jpg?x=1,2", "a b red cat"),
        ("000000001", "http://a.test/two%20dogs.png", "two dogs"),
    ]


@pytest.mark.parametrize(
    ("text", "settings", "kind", "words"),
    [
        ("http://a.test/1\n", {}, DataError, ["list of URLs has no captions", "caption_template"]),
        ("http://a.test/1\n", {"caption_template": "{x}"}, ConfigError, ["placeholder {x}"]),
        ("link,caption\nhttp://a.test/1,one\n", {}, DataError, ["could be the image", "link, caption", "`image_field`"]),
        ("url,words\nhttp://a.test/1,one\n", {}, DataError, ["could be the caption", "url, words", "caption_field", "comma"]),
        ("url,caption\nhttp://a.test/1,one\n", {"sha256_field": "hash"}, DataError, ["no column 'hash'", "`sha256_field`"]),
        ("url,caption\nhttp://a.test/1,one\n", {"class_field": "kind"}, DataError, ["no column 'kind'", "class_field"]),
        ("url,caption\n", {}, DataError, ["holds no URL", "column 'url'"]),
        ("url\n", {"caption_template": "{stem}"}, DataError, ["holds no URL"]),
        ("", {}, DataError, ["table is empty"]),
        ("\n\n", {}, DataError, ["table is empty"]),
    ],
)
def test_what_is_missing_is_named_at_once(
    tmp_path: Path, text: str, settings: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        open_kind("table", table(tmp_path, text, "data.csv"), **settings)
    assert [word for word in words if word not in str(caught.value)] == []


def test_rows_that_cannot_be_used_are_named_without_a_request(tmp_path: Path, server: BadServer) -> None:
    (good,) = server.of("image/a")
    rows = [f"{good},one,x", f"{good},,x", f"{good},nan,x", ",two,x", f"{good},one,x,y", f"{good},one,"]
    path = table(tmp_path, "url,caption,kind\n" + "\n".join(rows), "data.csv")
    samples, rejected = collect(open_kind("table", path, class_field="kind", allow_private=True))
    assert {key: item.reason for key, item in rejected.items()} == {
        "000000001": "empty_caption",
        "000000002": "no_caption",
        "000000003": "no_image",
        "000000004": "malformed_row",
    }
    assert {key: sample.class_name for key, sample in samples.items()} == {"000000000": "x", "000000005": None}
    assert server.requests["image/a"] == 2


def test_known_rows_are_not_fetched_and_the_sample_says_where_it_is_from(tmp_path: Path, server: BadServer) -> None:
    urls = server.of("image/b", "image/c", "image/d")
    path = parquet(tmp_path / "a.parquet", url=urls, text=["one", "two", "three"], uid=["x", "y", "z"], sha256=[None] * 3)
    samples, _ = collect(open_kind("table", path, allow_private=True, samples=2), known={"000000000"})
    (sample,) = samples.values()
    assert (sample.key, sample.caption, sample.load()) == ("000000001", "two", image_for("c"))
    assert sample.fetch is not None
    assert sample.extra == {"url": urls[1], "uid": "y", "source_sha256": sample.fetch.sha256}
    assert server.requests["image/b"] == server.requests["image/d"] == 0
