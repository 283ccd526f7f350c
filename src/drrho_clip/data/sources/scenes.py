"""Generated scenes: two coloured objects and how they stand to each other, "a small red circle left of a large blue square".

A scene is a pure function of (seed, index, size). Captions are all distinct up to `COMBINATIONS` scenes. One object is always
large and one small; the class of a scene is the shape of the large one. Some pairs of shape and colour are held out: no training
scene has them, though every shape and every colour is seen in training.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from PIL import Image, ImageDraw

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.base import Piece, RawSample, Rejected
from drrho_clip.data.sources.order import cut, joined, key_hash, seeded_order
from drrho_clip.errors import ConfigError

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "crescent")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (244, 140, 6),
    "yellow": (250, 210, 30),
    "green": (56, 142, 60),
    "blue": (30, 90, 200),
    "purple": (123, 31, 162),
    "pink": (240, 120, 180),
    "black": (25, 25, 25),
}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
COMBINATIONS = (len(SHAPES) * len(COLOURS)) ** 2 * 2 * len(RELATIONS)
DEFAULT_COUNT = 10_000
DEFAULT_SIZE = 64

_OVERSAMPLING = 4
_PREFIX = "scene-"  # of the keys, before the number
_LARGE, _SMALL = (0.17, 0.205), (0.08, 0.11)  # radius as a part of the picture's side


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str
    colour: str
    large: bool

    def __str__(self) -> str:
        return f"a {'large' if self.large else 'small'} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two objects; the first stands `relation` the second."""

    first: Thing
    second: Thing
    relation: str

    @property
    def caption(self) -> str:
        """The scene in words."""
        return f"{self.first} {self.relation} {self.second}"

    @property
    def class_name(self) -> str:
        """The shape of the large object."""
        return self.first.shape if self.first.large else self.second.shape


class ScenesSource:
    """`samples` generated scenes (10,000 where it is 0)."""

    notice = ""
    classnames: tuple[str, ...] = SHAPES
    downloads = False
    templates: tuple[str, ...] = ("a large {}", "a large {} and something small", "a picture of a large {}")

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._count = config.samples or DEFAULT_COUNT
        self._size = config.image_size or DEFAULT_SIZE
        if self._size < config.min_image_side:
            raise ConfigError(
                f"Scenes of {self._size} pixels are below min_image_side = {config.min_image_side}", fix="Raise `image_size`."
            )
        self._heldout = heldout_pairs(config.seed, config.heldout_fraction)

    def total(self) -> int | None:
        """Number of scenes."""
        return self._count

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the scenes whose key is not in `known`, in a seeded hash order of the keys."""
        return joined(self.pieces(known))

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the same in pieces."""
        keys = (f"{_PREFIX}{number:06d}" for number in range(self._count))
        return cut(seeded_order(keys, self._config.seed, known), self._config.shard_samples, self._read)

    def fingerprint(self) -> str:
        """Nothing: the settings say all."""
        return ""

    def _read(self, keys: Iterable[str]) -> Iterator[RawSample | Rejected]:
        seed = self._config.seed
        for key in keys:
            number = int(key.removeprefix(_PREFIX))
            scene = scene_at(seed, number)
            load = partial(render, scene, seed, number, self._size)
            yield RawSample(key, load, scene.caption, scene.class_name, self._split(key, scene))

    def _split(self, key: str, scene: Scene) -> str:
        if any((thing.shape, thing.colour) in self._heldout for thing in (scene.first, scene.second)):
            return "heldout"
        drawn = key_hash(key, self._config.seed) / 2**64
        return "validation" if drawn < self._config.validation_fraction else "train"


def heldout_pairs(seed: int, fraction: float) -> frozenset[tuple[str, str]]:
    """Return the held-out (shape, colour) pairs: about `fraction` of all scenes has one of them.

    The pairs are taken diagonal by diagonal from the table of shapes by colours, so each shape and colour loses equally many.
    """
    colours = list(COLOURS)
    random.Random(f"heldout/{seed}").shuffle(colours)
    diagonals = [(shape, colours[(i + shift) % len(colours)]) for shift in range(len(colours)) for i, shape in enumerate(SHAPES)]
    of_objects = 1 - math.sqrt(1 - fraction)
    wanted = max(1, round(of_objects * len(diagonals))) if fraction else 0
    count = min(wanted, len(diagonals) - len(SHAPES))
    return frozenset(diagonals[:count])


def scene_at(seed: int, index: int) -> Scene:
    """Return the scene number `index`: a walk through all combinations with a seeded stride that is coprime to their number."""
    numbers = random.Random(f"walk/{seed}")
    stride = numbers.randrange(COMBINATIONS // 3, COMBINATIONS) | 1  # odd, and COMBINATIONS is a power of two
    rest = (numbers.randrange(COMBINATIONS) + index * stride) % COMBINATIONS
    picks = []
    for options in (2, len(RELATIONS), len(SHAPES), len(COLOURS), len(SHAPES), len(COLOURS)):
        rest, pick = divmod(rest, options)
        picks.append(pick)
    first_large, relation, *looks = picks
    colours = list(COLOURS)
    first = Thing(SHAPES[looks[0]], colours[looks[1]], large=first_large == 1)
    second = Thing(SHAPES[looks[2]], colours[looks[3]], large=first_large == 0)
    return Scene(first, second, list(RELATIONS)[relation])


def render(scene: Scene, seed: int, index: int, size: int) -> bytes:
    """Draw a scene as PNG, `size` pixels square; places, radii and shades vary with seed and index."""
    numbers = random.Random(f"draw/{seed}/{index}")
    side = size * _OVERSAMPLING
    shade = numbers.randint(228, 255)
    canvas = Image.new("RGB", (side, side), (shade, shade, numbers.randint(228, 255)))
    dx, dy = RELATIONS[scene.relation]
    for thing, direction in ((scene.first, 1), (scene.second, -1)):
        radius = side * numbers.uniform(*(_LARGE if thing.large else _SMALL))
        x = side * (0.5 + 0.24 * direction * dx + numbers.uniform(-0.025, 0.025))
        y = side * (0.5 + 0.24 * direction * dy + numbers.uniform(-0.025, 0.025))
        colour = tuple(max(0, min(255, level + numbers.randint(-20, 20))) for level in COLOURS[thing.colour])
        mask = Image.new("L", canvas.size, 0)
        _DRAW[thing.shape](ImageDraw.Draw(mask), x, y, radius)
        canvas.paste(colour, mask=mask)
    buffer = io.BytesIO()
    canvas.resize((size, size), Image.Resampling.BOX).save(buffer, "PNG")
    return buffer.getvalue()


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int = 255) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _polygon(draw: ImageDraw.ImageDraw, x: float, y: float, radii: list[float], start: float) -> None:
    """Draw a polygon with one corner per radius, at equal angles from `start` (in turns, 0 = right, 0.25 = down)."""
    angles = [2 * math.pi * (start + corner / len(radii)) for corner in range(len(radii))]
    points = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    draw.polygon(points, fill=255)


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    _disc(draw, x, y, radius)
    _disc(draw, x, y, 0.55 * radius, fill=0)


def _crescent(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    _disc(draw, x, y, radius)
    _disc(draw, x + 0.5 * radius, y, 0.85 * radius, fill=0)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    arm = 0.33 * radius
    draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=255)
    draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=255)


_DRAW: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "circle": _disc,
    "square": lambda draw, x, y, radius: _polygon(draw, x, y, [1.15 * radius] * 4, 0.125),
    "triangle": lambda draw, x, y, radius: _polygon(draw, x, y, [1.1 * radius] * 3, -0.25),
    "diamond": lambda draw, x, y, radius: _polygon(draw, x, y, [radius, 1.1 * radius, radius, 1.1 * radius], 0.0),
    "star": lambda draw, x, y, radius: _polygon(draw, x, y, [1.1 * radius, 0.45 * radius] * 5, -0.25),
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
}
