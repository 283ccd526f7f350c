"""The examples that are programs, in a short version."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from drrho_clip.data.ingest import ingest
from drrho_clip.data.reader import SampleReader
from drrho_clip.storage import open_store
from drrho_pipelines.settings import load_demo

ROOT = Path(__file__).resolve().parents[1]


def test_a_classifier_is_steered_away_from_wrong_labels():
    example = runpy.run_path(str(ROOT / "examples/classifier/steer.py"))
    train, accuracy, average = example["train"], example["accuracy"], example["average"]
    clean, noisy, _, test = example["split"](0)
    nothing = noisy.images.new_zeros(len(clean.labels))
    reference, _ = train(clean, average, nothing, seed=0)
    known = example["losses_of"](reference, noisy)
    plain, _ = train(noisy, average, known, seed=0)
    steered, weights = train(noisy, partial(example["kl_fixed"], temperature=1.0), known, seed=0)
    assert 0.35 < noisy.wrong.float().mean() < 0.45
    assert weights[noisy.wrong].mean() < 0.8 * weights[~noisy.wrong].mean()
    assert accuracy(steered, test) > accuracy(plain, test)  # 0.01 more, give or take a picture or two: sums differ by threads


ARROW = '<path fill="currentColor" d="M11 9h4v2h-4v4H9v-4H5V9h4V5h2z"/>'
DISC = '<circle cx="10" cy="10" r="8" fill="currentColor"/>'
SQUARE = '<rect x="2" y="4" width="9" height="13" fill="currentColor"/>'
BARS = '<path fill="currentColor" d="M0 0h20v4H0zM0 14h9v4H0z"/>'
FAMILIES = {
    "aside": {"arrow-up": ARROW, "a-disc": DISC, "nothing": ""},
    "held": {"add": ARROW, "home": SQUARE},
    "more": {"bars": BARS, "bars-again": BARS},
}


def draw_icons(package: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples/icons/draw.py", package, folder, "--heldout", "held", *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    for family, icons in FAMILIES.items():
        bodies = {name: {"body": body} for name, body in icons.items()} | {"old": {"body": DISC, "hidden": True}}
        (folder / f"{family}.json").write_text(json.dumps({"prefix": family, "width": 20, "height": 20, "icons": bodies}))
    return folder


def test_icons_become_pairs_without_a_copy_of_the_held_out_family(package: Path, tmp_path: Path):
    drawn = draw_icons(package, tmp_path / "icons")
    assert drawn.returncode == 0, drawn.stderr
    assert "4 of 7 icons" in drawn.stderr
    store = open_store(tmp_path / "store")
    settings = load_demo(ROOT / "examples/icons/icons.yaml", data=str(tmp_path / "icons"))
    config = settings.method_config(store.uri, "drrho").ingest.model_copy(update={"caption_noise": 0.0, "workers": 1})
    manifest = ingest(config, store)
    reader = SampleReader(store, manifest)
    pairs = {
        split: {(sample.caption, sample.meta.get("class")) for shard in manifest.split(split) for sample in reader.shard(shard)}
        for split in manifest.splits
    }
    assert pairs == {"heldout": {("add", None), ("home", "home")}, "train": {("a disc", None), ("bars", None)}}, (
        "the arrow has a copy that is held out"
    )


def test_the_same_icons_are_the_same_bytes(package: Path, tmp_path: Path):
    for folder in ("one", "two"):
        assert draw_icons(package, tmp_path / folder, "--size", "32").returncode == 0
    one, two = (
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / folder).iterdir()}
        for folder in ("one", "two")
    )
    assert one == two
    assert set(one) == {"aside.tar", "held.tar", "more.tar"}


def test_icons_that_are_drawn_or_unknown_are_said(package: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    again = draw_icons(package, tmp_path / "there")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    unknown = draw_icons(package, tmp_path / "icons", "--families", "mdi")
    assert (unknown.returncode, "holds no family mdi" in unknown.stderr) == (2, True)
    assert not (tmp_path / "icons").exists()
