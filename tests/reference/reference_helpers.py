"""Pictures of cats in a folder, and the settings that ingest them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from drrho_clip.data.config import IngestConfig

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


def draw(folder: Path, count: int, first: int = 0) -> None:
    """Write pictures `cat_a-7.png` with captions beside them, each of its own colour mix."""
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        image = Image.new("RGB", (32, 32), COLOURS[number % 6])
        image.paste((number * 37 % 256, number * 91 % 256, number), (number % 20, 4, number % 20 + 9, 28))
        image.save(folder / f"cat_a-{number}.png")
        (folder / f"cat_a-{number}.txt").write_text(f"a {COLOURS[number % 6]} cat number {number}")


SETTINGS = IngestConfig(
    dataset="cats", source="folder", path="pictures", shard_samples=37, heldout_fraction=0.2, workers=1
)  # the path is relative: a dataset remembers what it was made from, and tests work on copies
