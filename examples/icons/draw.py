"""Draw the icons of Iconify's families as image-text pairs: one WebDataset tar per family, each icon's name as its caption.

    python examples/icons/draw.py package/json icons
    python examples/icons/draw.py package/json mdi --families mdi --size 32

`package/json` is that of the npm package @iconify/json: one JSON file per family. One family is held out whole (its samples say
so in their `split`), and of the others what looks like an icon drawn before it is left out, so that no held-out icon has a copy
in the training data. An icon whose first word is in classes.json has it as its class. The same package gives the same tars, byte
by byte.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import resvg_py
from PIL import Image

from drrho_clip.data.duplicates import HashSet
from drrho_clip.data.images import looks_of

HELDOUT = "tabler"


class Icon(NamedTuple):
    """A drawn icon: its key (family/name), the PNG, and what it looks like (`looks_of`; empty = nothing to be seen)."""

    key: str
    caption: str
    png: bytes
    looks: tuple[int, ...]


def main() -> None:
    """Draw every family into a folder beside, which is renamed when it is whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder of the families' JSON files")
    parser.add_argument("folder", type=Path, help="where the tars go; must not be there yet")
    parser.add_argument("--size", type=int, default=64, help="width and height in pixels")
    parser.add_argument("--heldout", default=HELDOUT, help="the family that is held out; drawn first")
    parser.add_argument("--families", default="", help="draw these alone, separated by commas")
    arguments = parser.parse_args()
    files = families(arguments.package, arguments.heldout, [name for name in arguments.families.split(",") if name])
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already: delete it to draw the icons anew")
    part = arguments.folder.with_name(arguments.folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    classes = json.loads(Path(__file__).with_name("classes.json").read_text())["classnames"]
    seen, kept, drawn = HashSet(), 0, 0
    with ProcessPoolExecutor() as pool:
        for file, icons in zip(files, pool.map(partial(draw_family, size=arguments.size), files), strict=True):
            new = list(unseen(icons, seen))
            if new:
                split = "heldout" if file.stem == arguments.heldout else "train"
                write_tar(part / f"{file.stem}.tar", new, split, classes)
            kept, drawn = kept + len(new), drawn + len(icons)
            print(f"{file.stem}: {len(new)} of {len(icons)} icons", file=sys.stderr)
    part.rename(arguments.folder)
    print(f"{kept} of {drawn} icons in {arguments.folder}; the others look like one of these, or like nothing", file=sys.stderr)


def families(package: Path, heldout: str, asked: list[str]) -> list[Path]:
    """The families' files, the held-out one first and the others by name; exit with 2 where there is none."""
    found = {file.stem: file for file in sorted(package.glob("*.json"))}
    missing = [name for name in asked if name not in found]
    if not found or missing:
        print(f"{package} holds no family" + (f" {', '.join(missing)}" if found else ""), file=sys.stderr)
        raise SystemExit(2)
    names = asked or list(found)
    return [found[name] for name in sorted(names, key=lambda name: (name != heldout, name))]


def draw_family(file: Path, size: int) -> list[Icon]:
    """Draw the icons of one family that are no alias and not hidden, in the order of their names."""
    family = json.loads(file.read_text(encoding="utf-8"))
    icons = []
    for name, icon in sorted(family["icons"].items()):
        if not icon.get("hidden"):
            png = draw(icon, family, size)
            icons.append(Icon(f"{file.stem}/{name}", name.replace("-", " "), png, looks_of(Image.open(io.BytesIO(png)))))
    return icons


def draw(icon: dict[str, object], family: dict[str, object], size: int) -> bytes:
    """Draw one icon black on white, or in its own colours, as a square PNG of `size` pixels."""
    left, top, width, height = (icon.get(name, family.get(name, 16 * (name in ("width", "height")))) for name in BOX)
    view = f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}"'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
        f"{view}>{icon['body']}</svg>"
    )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white", skip_system_fonts=True))


BOX = ("left", "top", "width", "height")


def unseen(icons: list[Icon], seen: HashSet) -> Iterator[Icon]:
    """Yield the icons that look like nothing before them, and take note of them."""
    for icon in icons:
        if icon.looks and not any(look in seen for look in icon.looks):
            seen.add(icon.looks[0])
            yield icon


def write_tar(path: Path, icons: list[Icon], split: str, classes: list[str]) -> None:
    """Write the icons as WebDataset samples: .png, .txt and a .json with family, split and, where it has one, class."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for icon in icons:
            first_word = icon.caption.split(" ")[0]
            fields = {"family": path.stem, "split": split} | ({"class": first_word} if first_word in classes else {})
            for ending, data in (("png", icon.png), ("txt", icon.caption.encode()), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{icon.key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
