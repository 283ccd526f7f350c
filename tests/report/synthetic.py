"""Finished runs made up for the report: a real dataset of drawn pictures, and records as training writes them.

`python tests/report/synthetic.py FOLDER` writes three runs, their reference and their comparison into FOLDER, to look at.
"""

from __future__ import annotations

import io
import json
import math
import sys
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
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.reference_manifest import ReferenceIdentity, ReferenceManifest
from drrho_clip.evaluation.results import Evaluation, Retrieval, Score, ZeroShot
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training.config import TrainConfig

COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "ring", "cross")


def draw_pictures(folder: Path, count: int, *, size: int = 32) -> None:
    """Write `count` pictures with their captions beside them."""
    folder.mkdir(parents=True)
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


def make_dataset(store: Store, pictures: Path) -> Manifest:
    """Ingest a folder of pictures, some of them with exchanged captions."""
    settings = IngestConfig(
        dataset="shapes",
        source="folder",
        path=str(pictures),
        caption_noise=0.3,
        heldout_fraction=0.2,
        shard_samples=25,
        workers=1,
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


def write_weights(store: Store, run: str, manifest: Manifest, *, seed: int | None = 0) -> dict[int, float]:
    """Write weights of all training samples, exchanged captions smallest, or all 1 without a seed; return each one's mean."""
    reader = SampleReader(store, manifest)
    samples = [sample for shard in manifest.split("train") for sample in reader.shard(shard)]
    rng = np.random.default_rng(seed)
    factor = np.array([[0.02 if sample.meta.get("exchanged") else 1.0] for sample in samples])
    weights = (rng.beta(4, 1, (len(samples), 2)) * factor).astype(np.float32)
    weights = np.ones_like(weights) if seed is None else weights
    index = np.array([sample.index for sample in samples])
    sink = io.BytesIO()
    pq.write_table(pa.table({"index": index, "image_weight": weights[:, 0], "text_weight": weights[:, 1]}), sink)
    store.write(layout.run_weights(run), sink.getvalue())
    return dict(zip(index.tolist(), weights.mean(axis=1).tolist(), strict=True))


def evaluation(name: str, scores: tuple[float, float, float, float, float], *, trials: int = 593, **changes: Any) -> Evaluation:
    """Recalls at 1 and 5 of image to text, then of text to image, then the zero-shot accuracy."""
    image_1, image_5, text_1, text_5, top_1 = (Score.of(score * trials, trials) for score in scores)
    values = {
        "kind": "run", "name": name, "model": {"architecture": "drrho-small"}, "dataset": "shapes", "dataset_version": 1,
        "split": "heldout", "candidates": "split", "shards_id": "f" * 64, "samples": trials, "created": "2026-01-01T00:00:00Z",
        "retrieval": Retrieval(
            definition="", images=trials, captions=trials, candidate_images=trials, candidate_captions=trials,
            image_to_text={1: image_1, 5: image_5}, text_to_image={1: text_1, 5: text_5},
        ),
        "zero_shot": ZeroShot(
            definition="",
            classes=5, templates=1, samples=trials, skipped={}, top={1: top_1}, mean_per_class=top_1.value, per_class={}
        ),
    }  # fmt: skip
    return Evaluation.model_validate(values | changes)


def write_evaluation(store: Store, key: str, result: Evaluation) -> None:
    store.write(key, result.model_dump_json().encode())


def write_comparison(store: Store, pictures: Path, *, steps: int = 250, every: int = 2) -> Manifest:
    """Three runs on a folder of pictures, all with a reference that an earlier run trained, and all evaluated."""
    manifest = make_dataset(store, pictures)
    identity = ReferenceIdentity(
        spec="run:teacher", architecture="drrho-tiny", weights_sha256="e" * 64, activation="gelu",
        preprocessing="shortest 32, bicubic",
        precision="fp32", dim=96, logit_scale=14.3,
    )  # fmt: skip
    reference = ReferenceManifest(
        dataset="shapes", dataset_id=manifest.id, dataset_version=1, shards=(), identity=identity, created="2026-01-01T00:00:00Z"
    )
    store.write(layout.reference_manifest("shapes", "clean"), reference.model_dump_json().encode())
    write_evaluation(
        store, layout.reference_evaluation("shapes", "clean", "heldout"), evaluation("clean", (0.079, 0.265, 0.274, 0.547, 0.31))
    )
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
        write_evaluation(store, layout.evaluation(config.run, "shapes", "heldout"), evaluation(config.run, scores))
        write_weights(store, config.run, manifest, seed=seed)
    return manifest


def main() -> None:
    from drrho_clip.report import ReportConfig, comparison_table, load_results, render_table, write_report

    folder = Path(sys.argv[1])
    store = open_store(folder / "store")
    draw_pictures(folder / "pictures", 400)
    write_comparison(store, folder / "pictures")
    names = ("openclip-small", "fastclip-small", "drrho-small")
    print(render_table(comparison_table(load_results(store, names))))
    print(write_report(ReportConfig(runs=",".join(names), comparison="methods"), store))
    print(write_report(ReportConfig(runs="drrho-small"), store))


if __name__ == "__main__":
    main()
