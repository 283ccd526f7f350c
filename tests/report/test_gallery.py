"""The gallery: which samples it takes, and that their captions are text and their pictures small."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.data.weights import BINS, Weights, load_weights
from drrho_clip.errors import DataError
from drrho_clip.report.gallery import THUMBNAIL, make_gallery, thumbnail
from drrho_clip.report.text import SHOWN, as_text, readable, shorten
from drrho_clip.storage import Store, layout


def weights_of(*values: float) -> Weights:
    return Weights(np.arange(len(values)), np.array(values, dtype=np.float32))


@pytest.mark.parametrize(
    ("values", "count", "largest", "smallest"),
    [
        ((0.5, 0.1, 0.9, 0.3), 1, [2], [1]),
        ((0.5, 0.1, 0.9, 0.3), 2, [2, 0], [1, 3]),
        ((0.5, 0.1, 0.9), 12, [2, 0], [1]),
        ((0.5,), 12, [0], []),
        ((), 12, [], []),
    ],
    ids=["one", "two", "fewer than asked for", "one sample", "none"],
)
def test_ends_are_ordered_and_share_no_sample(values: tuple[float, ...], count: int, largest: list[int], smallest: list[int]):
    ends = weights_of(*values).ends(count)
    assert [end.tolist() for end in ends] == [largest, smallest]


@pytest.mark.parametrize(
    ("values", "top", "lowest", "highest"), [((0.0, 0.01, 0.5, 0.97), 1.0, 2, 1), ((-0.1, 0.05, 2.0), 2.0, 2, 1), ((), 1.0, 0, 0)]
)
def test_histogram_counts_every_sample(values: tuple[float, ...], top: float, lowest: int, highest: int):
    weights = weights_of(*values)
    counts = weights.histogram()
    assert weights.top == top
    assert (len(counts), sum(counts), counts[0], counts[-1]) == (BINS, len(values), lowest, highest)


def write_table(store: Store, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    store.write(layout.run_weights("drrho-small"), sink.getvalue())


def test_weights_are_the_mean_of_both_sides_and_unknown_ones_are_left_out(folder_store: Store):
    nan = float("nan")
    write_table(folder_store, pa.table({"index": [3, 5, 9], "image_weight": [0.2, nan, 1.0], "text_weight": [0.4, 0.1, 0.0]}))
    weights = load_weights(folder_store, "drrho-small")
    assert weights is not None
    assert weights.index.tolist() == [3, 9]
    assert weights.weight.tolist() == pytest.approx([0.3, 0.5])
    assert load_weights(folder_store, "another") is None


def test_weights_that_cannot_be_read_name_their_place(folder_store: Store):
    folder_store.write(layout.run_weights("drrho-small"), b"no parquet")
    with pytest.raises(DataError, match=r"weights cannot be read.*weights\.parquet"):
        load_weights(folder_store, "drrho-small")
    for columns in ({"index": [1], "weight": [0.5]}, {"index": ["x"], "image_weight": [0.5], "text_weight": [0.5]}):
        write_table(folder_store, pa.table(columns))
        with pytest.raises(DataError, match="weights cannot be read"):
            load_weights(folder_store, "drrho-small")


def test_gallery_shows_the_samples_of_its_weights(compared: Store):
    manifest = load_manifest(compared, "shapes")
    reader = SampleReader(compared, manifest)
    weights = load_weights(compared, "drrho-small")
    assert weights is not None
    gallery = make_gallery(reader, manifest, "drrho-small", weights, 3)
    assert len(gallery.largest) == len(gallery.smallest) == 3
    for tile in (*gallery.largest, *gallery.smallest):
        sample = reader.get(tile.index)
        assert (tile.caption, tile.key, tile.exchanged) == (
            sample.caption,
            sample.meta["key"],
            sample.meta.get("exchanged", False),
        )
        assert tile.image.startswith("data:image/webp;base64,")
    assert all(tile.exchanged for tile in gallery.smallest)
    assert not any(tile.exchanged for tile in gallery.largest)
    assert min(t.weight for t in gallery.largest) > max(t.weight for t in gallery.smallest)


class Whispering(SampleReader):
    """Gives every sample a caption that would turn the text around it, and half of a surrogate pair."""

    def get(self, index: int) -> Sample:
        return replace(super().get(index), caption="a\u202e cat \ud83d", stored_meta={"key": "\u2066key", "exchanged": False})


def test_captions_and_keys_of_the_gallery_are_made_readable(compared: Store):
    manifest = load_manifest(compared, "shapes")
    gallery = make_gallery(Whispering(compared, manifest), manifest, "drrho-small", weights_of(0.1, 0.9), 1)
    assert {(tile.caption, tile.key) for tile in (*gallery.largest, *gallery.smallest)} == {
        ("a[U+202E] cat [U+D83D]", "[U+2066]key")
    }


def test_samples_that_cannot_be_read_keep_their_place_and_say_why(compared: Store):
    manifest = load_manifest(compared, "shapes")
    gone, kept = manifest.split("train")[:2]
    compared.delete(gone.key)
    weights = Weights(np.array([gone.base, kept.base, 10**6]), np.array([0.1, 0.2, 0.9], dtype=np.float32))
    gallery = make_gallery(SampleReader(compared, manifest), manifest, "drrho-small", weights, 1)
    assert gallery.smallest[0].index == gone.base
    assert gone.key in gallery.smallest[0].problem
    assert "gone" in gallery.smallest[0].problem
    assert "1000000" in gallery.largest[0].problem


@pytest.mark.parametrize("size", [(4000, 3000), (3, 5000), (144, 144), (32, 32), (1, 1)])
def test_thumbnails_are_small_pictures(size: tuple[int, int]):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    uri = thumbnail(Image.fromarray(noise))
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))) as shown:
        assert shown.format == "WEBP"
        assert max(shown.size) == min(max(size), THUMBNAIL)
    assert len(uri) < 20_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", "a cat"),
        (" two\n\nlines\t and\xa0more ", "two lines and more"),
        ("abc\u202egnp.exe", "abc[U+202E]gnp.exe"),
        ("\u2066isolate\u2069", "[U+2066]isolate[U+2069]"),
        ("nul\x00 bell\x07 c1\x9b", "nul[U+0000] bell[U+0007] c1[U+009B]"),
        ("half \ud83d pair", "half [U+D83D] pair"),
        ("שלום\u200f 👩\u200d💻 é", "שלום\u200f 👩\u200d💻 é"),
    ],
    ids=["plain", "white space", "override", "isolates", "controls", "lone surrogate", "right-to-left, joiners, accents"],
)
def test_foreign_text_is_made_readable(text: str, expected: str):
    assert readable(text) == expected
    readable(text).encode("utf-8")


def test_long_text_is_shortened():
    assert shorten("x" * SHOWN) == "x" * SHOWN
    assert shorten("x" * 10_000) == "x" * SHOWN + "…"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "yes"),
        (0.1, "0.1"),
        (3.125e-4, "0.0003125"),
        (64000, "64,000"),
        (1280.0, "1,280"),
        (None, ""),
        ("a\nb", "a b"),
        (-1, "-1"),
    ],
)
def test_settings_are_written_short(value: object, expected: str):
    assert as_text(value) == expected
