"""A dataset of generated photographs for the benchmarks of reading and decoding."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest
from drrho_clip.storage import Store

DIFFERENT = 50  # pictures; the rest repeat them


def publish_pictures(store: Store, folder: Path, *, samples: int, side: int, **settings: int) -> Manifest:
    """Ingest JPEGs of clouds and edges, quality 90, with short captions as the dataset `pictures`; `settings` of the ingest."""
    generator = np.random.default_rng(0)
    encoded = [_picture(generator, side) for _ in range(DIFFERENT)]
    source = folder / f"source-{side}"
    source.mkdir(parents=True)
    for number in range(samples):
        (source / f"{number:06d}.jpg").write_bytes(encoded[number % DIFFERENT])
        (source / f"{number:06d}.txt").write_text(f"clouds of the kind {number % DIFFERENT}, number {number}")
    own = {"dataset": "pictures", "source": "folder", "path": str(source), "heldout_fraction": 0}
    return ingest(IngestConfig.parse({**own, **settings}), store)


def _picture(generator: np.random.Generator, side: int) -> bytes:
    clouds = Image.fromarray(generator.integers(0, 256, (side // 24, side // 24, 3), dtype=np.uint8))
    pixels = np.asarray(clouds.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=90)
    return stream.getvalue()
