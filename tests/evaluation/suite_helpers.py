"""Small datasets in the layout that CLIP_benchmark and DataComp publish, drawn from generated scenes."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from drrho_clip.data.sources.scenes import SHAPES, Scene, render, scene_at
from drrho_clip.evaluation import EvaluateConfig

SIZE = 32
TEMPLATES = ("a large {c}", "a picture of a large {c}")
LAYOUT_ENDINGS = ("png", "jpg", "webp")


def settings(data: Path | str, suite: Path | str = "", **changes: object) -> EvaluateConfig:
    """The run `one` on a suite, which is small.yaml beside the data where none is named."""
    values = {"run": "one", "suite": str(suite or Path(data) / "small.yaml"), "suite_data": str(data), "batch_size": 16}
    return EvaluateConfig.parse(values | {"decode_threads": 2} | changes)


def scenes(count: int, first: int = 0) -> list[tuple[Scene, bytes]]:
    """`count` scenes with their pictures as PNG."""
    return [(scene := scene_at(0, index), render(scene, 0, index, SIZE)) for index in range(first, first + count)]


def encode(png: bytes, ending: str) -> bytes:
    """The same picture as PNG, lossless WebP or JPEG."""
    if ending == "png":
        return png
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(png))
    if ending == "webp":
        image.save(buffer, "WEBP", lossless=True)
    else:
        image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_published(folder: Path, samples: Sequence[Mapping[str, bytes]], texts: Mapping[str, str], *, tars: int = 2) -> None:
    """Write samples (ending -> bytes) as test/0.tar, ... with nshards.txt, and the text files."""
    size = -(-len(samples) // tars)
    for number in range(tars):
        part = list(enumerate(samples))[number * size : (number + 1) * size]
        members = [(f"s{index:07d}.{ending}", data) for index, sample in part for ending, data in sample.items()]
        write_tar(folder / "test" / f"{number}.tar", members)
    (folder / "test/nshards.txt").write_text(f"{tars}\n")
    for name, text in texts.items():
        (folder / name).write_text(text)


def class_texts(names: Sequence[str] = SHAPES, templates: Sequence[str] = TEMPLATES) -> dict[str, str]:
    return {
        "classnames.txt": "\n".join(names) + "\n",
        "zeroshot_classification_templates.txt": "\n".join(templates) + "\n",
        "dataset_type.txt": "classification\n",
    }


def write_classification(folder: Path, count: int = 60) -> list[tuple[bytes, int, int]]:
    """Shapes of the large object; three groups in turn, in column 1 of .npy and as `region` of .json."""
    rows = []
    samples = []
    for index, (scene, png) in enumerate(scenes(count)):
        ending = LAYOUT_ENDINGS[index % 3]
        label, group = SHAPES.index(scene.class_name), index % 3
        picture = encode(png, ending)
        numbers = io.BytesIO()
        np.save(numbers, np.array([7, group, label]))
        samples.append(
            {
                ending: picture,
                "cls": str(label).encode(),
                "npy": numbers.getvalue(),
                "json": json.dumps({"region": ["north", "south", "other"][group]}).encode(),
            }
        )
        rows.append((picture, label, group))
    write_published(folder, samples, class_texts())
    return rows


def write_retrieval(folder: Path, count: int = 24) -> list[tuple[bytes, list[str]]]:
    """Each scene with three captions of its own, one a line; every other one as JSON."""
    rows = []
    samples = []
    for index, (scene, png) in enumerate(scenes(count, first=500)):
        captions = [scene.caption, f"{scene.caption}, drawn", f"a drawing of {scene.caption}"]
        text = "\n".join(captions) + "\n"
        captioned = {"txt": text.encode()} if index % 2 else {"json": json.dumps({"captions": captions}).encode()}
        samples.append({"png": png, **captioned})
        rows.append((png, captions))
    write_published(folder, samples, {"dataset_type.txt": "retrieval"}, tars=3)
    return rows


def write_associations(folder: Path) -> tuple[dict[str, bytes], list[tuple[str, list[str], list[str]]]]:
    """Cues are colours; the candidates are scenes, those with the colour are associated. As WinoGAViL's two files."""
    folder.mkdir(parents=True)
    drawn = [(f"scene-{index}", scene, png) for index, (scene, png) in enumerate(scenes(40, first=900))]
    rows = []
    for number, colour in enumerate(("red", "orange", "yellow", "green", "blue", "purple")):
        own = next(row for row in drawn if colour in (row[1].first.colour, row[1].second.colour))
        candidates = [*drawn[number : number + (12 if number % 2 else 5)], own]
        names = list(dict.fromkeys(name for name, _, _ in candidates))
        with_colour = {name for name, scene, _ in drawn if colour in (scene.first.colour, scene.second.colour)}
        rows.append((colour, names, [name for name in names if name in with_colour]))
    with (folder / "winogavil_dataset.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("ID", "cue", "candidates", "associations"))
        writer.writerows((number, cue, json.dumps(names), str(own)) for number, (cue, names, own) in enumerate(rows))
    with zipfile.ZipFile(folder / "winogavil_images.zip", "w") as archive:
        for name, _, png in drawn:
            archive.writestr(f"winogavil_images/{name}.png", png)
    return {name: png for name, _, png in drawn}, rows
