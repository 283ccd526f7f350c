"""Finished runs made up for the report: a real dataset of drawn pictures, and records as training writes them.

`python tests/report/synthetic.py FOLDER` writes three runs, their reference and their comparison into FOLDER, to look at.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.data.manifest import Manifest
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training.config import TrainConfig

COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "ring", "cross")


def draw_pictures(folder: Path, count: int, *, size: int = 32) -> None:
    """Write `count` pictures with their captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number // len(COLOURS) % len(SHAPES)]
        picture = Image.new("RGB", (size, size), "white")
        _draw(ImageDraw.Draw(picture), shape, colour, size)
        picture.save(folder / f"{number:05d}.png")
        (folder / f"{number:05d}.txt").write_text(f"a {colour} {shape}, drawing {number}", encoding="utf-8")


def _draw(pen: ImageDraw.ImageDraw, shape: str, colour: str, size: int) -> None:
    low, high = size // 6, size - size // 6
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=colour)
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=colour)
    elif shape == "triangle":
        pen.polygon(((size // 2, low), (low, high), (high, high)), fill=colour)
    elif shape == "ring":
        pen.ellipse((low, low, high, high), outline=colour, width=max(2, size // 8))
    else:
        pen.line((low, low, high, high), fill=colour, width=max(2, size // 8))
        pen.line((low, high, high, low), fill=colour, width=max(2, size // 8))


def make_dataset(store: Store, pictures: Path, *, count: int = 60, name: str = "shapes", noise: float = 0.3) -> Manifest:
    """Ingest drawn pictures, some of them with exchanged captions."""
    draw_pictures(pictures, count)
    settings = IngestConfig(
        dataset=name, source="folder", path=str(pictures), caption_noise=noise, heldout_fraction=0.2, shard_samples=25, workers=1
    )
    return ingest(settings, store)


def records(
    *, steps: int, every: int, batch: int, seed: int, variance: tuple[float, float], loss: tuple[float, float]
) -> list[dict[str, float]]:
    """Records with a falling loss, variances that go to (Var(l), Var(l - l_ref)), warm-up and cosine, noisy throughput."""
    rng = np.random.default_rng(seed)
    written = []
    for step in range(every, steps + 1, every):
        done = step / steps
        record = {
            "step": step,
            "epoch": step * batch // 3400,
            "samples_total": step * batch,
            "loss": loss[1] + (loss[0] - loss[1]) * math.exp(-4 * done) + 0.03 * rng.standard_normal(),
            "samples_per_second": 410 + 25 * rng.standard_normal() - (120 if step == every else 0),
            "temperature": 0.1 if seed == 3 else 0.07 * math.exp(-1.2 * done),
            "gamma": 0.6 + 0.4 * (1 + math.cos(math.pi * min(1.0, 2 * done))) / 2,
            "learning_rate": 1e-3 * min(1.0, done / 0.05) * (1 + math.cos(math.pi * done)) / 2,
            "time": 1.7e9 + step,
        }
        for side, factor in (("image", 1.0), ("text", 0.85)):
            for of, final in zip(("target", "rho"), variance, strict=True):
                rise = 1 - math.exp(-6 * done)
                record[f"pairwise_loss_variance.{side}.{of}"] = (
                    factor * (0.004 + final * rise) * math.exp(0.08 * rng.standard_normal())
                )
        written.append(record)
    return written


def write_records(store: Store, run: str, lines: list[dict[str, float]], tail: str = "") -> None:
    """Write metrics.jsonl, ending with `tail` (what a write cut short leaves)."""
    store.write(layout.run_metrics(run), ("".join(json.dumps(line) + "\n" for line in lines) + tail).encode())


def write_run(store: Store, config: TrainConfig, manifest: Manifest, lines: list[dict[str, float]]) -> None:
    """Write what a finished run leaves: config.yaml, metrics.jsonl, summary.json."""
    store.write(layout.run_config(config.run), yaml.safe_dump(config.model_dump()).encode())
    write_records(store, config.run, lines)
    summary = {
        "run": config.run,
        "method": config.method,
        "architecture": config.architecture,
        "dataset": config.dataset,
        "dataset_id": manifest.id,
        "dataset_version": manifest.version,
        "reference": config.reference,
        "steps": config.steps,
        "samples_seen": config.steps * config.batch_size,
        "samples_skipped": 0,
        "seconds": 154.2,
        "samples_per_second": 415.3,
        "temperature": lines[-1]["temperature"],
        "world_size": 2,
        "device": "cpu",
        "versions": {"drrho-clip": "0.1.0", "torch": "2.6.0"},
        "final": {"loss": lines[-1]["loss"]},
    }
    store.write(layout.run_summary(config.run), json.dumps(summary).encode())


def write_weights(store: Store, run: str, manifest: Manifest, *, seed: int = 0) -> np.ndarray:
    """Write weights of all training samples, the first ones smallest; return them as [n, 3] (index, image, text)."""
    index = np.concatenate([np.arange(shard.base, shard.base + shard.count) for shard in manifest.split("train")])
    rng = np.random.default_rng(seed)
    image, text = (np.sort(rng.beta(0.8, 0.5, len(index))).astype(np.float32) for _ in range(2))
    sink = io.BytesIO()
    pq.write_table(pa.table({"index": index, "image_weight": image, "text_weight": text}), sink)
    store.write(layout.run_weights(run), sink.getvalue())
    return np.stack([index, image, text], axis=1)


def write_comparison(store: Store, pictures: Path, *, count: int = 60, steps: int = 250, every: int = 2) -> Manifest:
    """Three runs on one dataset, all with a reference that an earlier run trained, and its evaluations."""
    manifest = make_dataset(store, pictures, count=count)
    store.write(layout.reference_manifest("shapes", "clean"), json.dumps({"identity": {"spec": "run:teacher"}}).encode())
    write_evaluation(store, layout.reference_evaluation("shapes", "clean", "heldout"), (0.079, 0.265, 0.274, 0.547, 0.31))
    runs = {
        "openclip": (1, (0.13, 0.26), (5.5, 2.9), (0.010, 0.049, 0.076, 0.264, 0.151)),
        "fastclip": (2, (0.14, 0.26), (2.4, 1.6), (0.010, 0.054, 0.062, 0.231, 0.148)),
        "drrho": (3, (0.33, 0.029), (0.1, -0.32), (0.068, 0.188, 0.230, 0.465, 0.283)),
    }
    for name, (seed, variance, loss, scores) in runs.items():
        config = TrainConfig(
            run=f"{name}-small", dataset="shapes", method=name, reference="clean", architecture="drrho-small", batch_size=256,
            samples=steps * 256, learning_rate=1e-3, weight_decay=0.1, temperature=0.1, eps=1.0 if name == "drrho" else -1,
        )  # fmt: skip
        lines = records(steps=steps, every=every, batch=256, seed=seed, variance=variance, loss=loss)
        write_run(store, config, manifest, lines)
        write_evaluation(store, layout.evaluation(config.run, "shapes", "heldout"), scores)
        write_weights(store, config.run, manifest, seed=seed)
    return manifest


def main() -> None:
    from drrho_clip.report import ReportConfig, comparison_table, load_results, render_table, write_report

    folder = Path(sys.argv[1])
    store = open_store(folder / "store")
    write_comparison(store, folder / "pictures", count=400)
    names = ("openclip-small", "fastclip-small", "drrho-small")
    print(render_table(comparison_table(load_results(store, names))))
    print(write_report(ReportConfig(runs=",".join(names), comparison="methods"), store))
    print(write_report(ReportConfig(runs="drrho-small"), store))


if __name__ == "__main__":
    main()
