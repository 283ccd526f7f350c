"""The shards are plain WebDataset: its own reader and open_clip's training loader give the same pairs as ours."""

from __future__ import annotations

import argparse
import functools
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from ingest_helpers import folder_config, numbered, write_pairs
from PIL import Image

from drrho_clip.data.ingest import ingest
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.tar_index import index_tar
from drrho_clip.storage.local import LocalStore

NAMES = [*numbered(20), "cat v2.0", "d.v1/1", "e.v1/1"]  # dots and folders: the keys that readers split wrongly


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """Pictures as RGB bytes by caption."""
    source = write_pairs(tmp_path / "pets", NAMES)
    for number, ending in enumerate(("JPEG", "WEBP")):
        name = source / f"cat_a-{number}.png"
        Image.open(name).save(name, ending)  # the content decides, not the ending
    store = LocalStore(tmp_path)
    manifest = ingest(folder_config(source, heldout_fraction=0), store)
    reader = SampleReader(store, manifest)
    samples = [reader.get(i) for i in range(manifest.total)]
    return {sample.caption: np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB")).tobytes() for sample in samples}


@pytest.fixture
def shards(tmp_path: Path, expected: dict[str, bytes]) -> list[str]:
    assert sorted(expected) == sorted(f"a picture of {name}" for name in NAMES)
    return sorted(map(str, (tmp_path / "datasets/pets/shards").glob("*.tar")))


def test_by_webdataset(shards: list[str], expected: dict[str, bytes]) -> None:
    import webdataset

    dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    found, keys, endings = {}, [], set()
    for sample in dataset:
        image = next(value for name, value in sample.items() if name in ("jpg", "png", "webp"))
        endings |= set(sample) & {"jpg", "png", "webp"}
        found[sample["txt"]] = image.convert("RGB").tobytes()
        keys.append(sample["__key__"])
        assert sample["txt"] == f"a picture of {sample['json']['key']}"
    assert found == expected
    assert keys == [f"{index:09d}" for index in range(len(NAMES))]
    assert endings == {"jpg", "png", "webp"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_train", [True, False])
def test_by_open_clips_own_loader(
    shards: list[str], expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, is_train: bool
) -> None:
    import open_clip  # noqa: F401  (neither of them may see the next line)
    import torchvision  # noqa: F401

    monkeypatch.setitem(sys.modules, "pandas", types.ModuleType("pandas"))  # only its loader of CSV files needs it
    from open_clip_train import data

    # Its training loader was written for webdataset 0.2, which yields nothing at the end of a tar.
    monkeypatch.setattr(data, "tar_file_expander", functools.partial(data.tar_file_expander, eof_value=None))
    pattern = str(Path(shards[0]).with_name(f"{{000000..{len(shards) - 1:06d}}}.tar"))
    count = len(NAMES)
    args = argparse.Namespace(
        train_data=pattern, train_num_samples=count, train_data_upsampling_factors=None, dataset_resampled=False, seed=0,
        val_data=pattern, val_num_samples=count, workers=0, world_size=1, batch_size=count,
    )  # fmt: skip
    loader = data.get_wds_dataset(args, np.asarray, is_train, tokenizer=lambda text: [text]).dataloader
    ((images, texts),) = list(loader)
    assert {text: np.asarray(image).tobytes() for image, text in zip(images, texts, strict=True)} == expected


def test_the_index_beside_a_shard_leads_to_its_members(shards: list[str]) -> None:
    """As DALI reads it: offset and size of the text lie where the line says."""
    for shard in shards:
        header, *lines = Path(shard).with_suffix(".idx").read_text().splitlines()
        assert header == f"v1.2 {len(lines)}"
        data = Path(shard).read_bytes()
        assert index_tar(io.BytesIO(data)).text == Path(shard).with_suffix(".idx").read_bytes()
        for line in lines:
            extensions, offsets, sizes, _ = (line.split(" ")[i::4] for i in range(4))
            parts = {
                extension: data[int(offset) : int(offset) + int(size)]
                for extension, offset, size in zip(extensions, offsets, sizes, strict=True)
            }
            assert parts["txt"].decode() == f"a picture of {json.loads(parts['json'])['key']}"
