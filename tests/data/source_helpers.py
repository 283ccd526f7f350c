"""Small pictures, and what a source gives, sorted into samples and rejections."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.images import decode_image
from drrho_clip.data.sources import REASONS, RawSample, Rejected, Source, open_source
from drrho_clip.storage import Store

Members = list[tuple[str, Any]]


def picture(level: int = 0, image_format: str = "PNG") -> bytes:
    """A tiny picture, told apart from others by its level of grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level, level)).save(buffer, image_format)
    return buffer.getvalue()


def level_of(data: bytes) -> int:
    """The level of `picture`, to the precision of lossy formats."""
    return round(decode_image(data).getpixel((8, 8))[0] / 5) * 5


def write_files(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_tar(path: Path, members: Iterable[tuple[str, str | bytes | dict[str, Any]]]) -> Path:
    """Write a tar with the members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            text = json.dumps(content) if isinstance(content, dict) else content
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def open_kind(source: str, path: Path | str = "", store: Store | None = None, **settings: Any) -> Source:
    return open_source(IngestConfig.parse({"source": source, "path": str(path), **settings}), store)


def collect(source: Source, known: Collection[str] = ()) -> tuple[dict[str, RawSample], dict[str, Rejected]]:
    """Read a source to its end; samples are taken through pickle, as on their way to another process."""
    samples: dict[str, RawSample] = {}
    rejected: dict[str, Rejected] = {}
    for item in source.samples(known):
        assert item.key not in samples
        assert item.key not in rejected
        if isinstance(item, Rejected):
            assert item.reason in REASONS
            rejected[item.key] = item
        else:
            samples[item.key] = pickle.loads(pickle.dumps(item))
    return samples, rejected


def captions(source: Source) -> dict[str, str]:
    return {key: sample.caption for key, sample in collect(source)[0].items()}


def reasons(source: Source) -> dict[str, str]:
    return {key: item.reason for key, item in collect(source)[1].items()}


def pair(key: str, level: int = 0, ending: str = "png") -> Members:
    image_format = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}.get(ending, "PNG")
    return [(f"{key}.{ending}", picture(level, image_format)), (f"{key}.txt", f"caption of {key}")]


def shard(path: Path, keys: range) -> Path:
    return write_tar(path, [member for key in keys for member in pair(f"{key:06d}", 5 * (key % 50))])


def check_pairs(source: Any, levels: dict[str, int]) -> None:
    """Every sample must have its own caption and its own picture, and nothing may be rejected."""
    samples, rejected = collect(source)
    assert rejected == {}
    found = {key: (sample.caption, level_of(sample.load())) for key, sample in samples.items()}
    assert found == {key: (f"caption of {key}", level) for key, level in levels.items()}
