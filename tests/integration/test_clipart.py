"""The clip-art example on 600 of its pictures: from Debian's package to a comparison, through S3 and the compiled pipeline."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from drrho_clip.data.manifest import load_manifest
from drrho_clip.evaluation.step import read_evaluation
from drrho_clip.storage import Store, layout
from drrho_pipelines.demo import run_demo
from drrho_pipelines.settings import DemoSettings, load_demo

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/clipart"
FETCH = EXAMPLE / "fetch.sh"
PICTURES = 600
TINY = {"architecture": "drrho-nano", "batch_size": 64, "samples": 640, "warmup_steps": 2, "checkpoint_steps": 5}


@pytest.fixture(scope="module")
def pictures() -> Path:
    """The pictures, fetched once into the user's cache."""
    if not shutil.which("apt-get"):
        pytest.skip("the clip-art is a package of Debian's, and this machine has no apt-get")
    fetched = subprocess.run([FETCH], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=240)
    assert fetched.returncode == 0
    return Path(fetched.stdout.strip())


def small(pictures: Path) -> DemoSettings:
    """The example's own settings, cut down in size alone."""
    settings = load_demo(EXAMPLE / "clipart.yaml", data=str(pictures))
    methods = {"drrho": settings.methods["drrho"]}
    return settings.model_copy(
        update={
            "ingest": {**settings.ingest, "samples": PICTURES},
            "train": {**settings.train, **TINY},
            "reference_train": {**settings.reference_train, "architecture": "drrho-nano"},
            "methods": methods,
        }
    )


def test_600_pictures_from_the_package_to_the_comparison(pictures: Path, s3_store: Store, tmp_path: Path, capfd):
    settings = small(pictures)
    run_demo(settings, s3_store.uri, tmp_path)
    shown = capfd.readouterr().out

    dirty, clean = load_manifest(s3_store, "clipart"), load_manifest(s3_store, "clipart-clean")
    assert dirty.total + sum(failure.count for failure in dirty.failed.values()) == PICTURES
    assert clean.total == dirty.total - dirty.exchanged
    assert 0.2 < dirty.exchanged / dirty.splits["train"] < 0.4
    assert {"animals", "food", "signs and symbols"} <= set(dirty.classnames)

    evaluated = read_evaluation(s3_store, layout.evaluation("clipart-drrho", "clipart", "heldout-all"))
    assert evaluated.samples == dirty.splits["heldout"]
    # Of all splits, equal pictures counted once.
    assert dirty.splits["heldout"] < evaluated.retrieval.candidate_images <= dirty.total
    assert evaluated.zero_shot is not None
    assert evaluated.zero_shot.classes == len(dirty.classnames)
    page = (tmp_path / "clipart.html").read_text(encoding="utf-8")
    assert page == s3_store.read(layout.comparison("clipart")).decode()
    assert "[5/5] comparison: done" in shown
    assert f"Report: {tmp_path / 'clipart.html'}" in shown

    run_demo(settings, s3_store.uri, tmp_path)
    again = capfd.readouterr().out
    assert again.count(": found in") == 4
    assert load_manifest(s3_store, "clipart") == dirty


def test_without_apt_the_message_says_what_to_do_instead(tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "mkdir", "mktemp", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    result = subprocess.run(
        [FETCH, tmp_path / "cache"], env={"PATH": str(tools), "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "apt-get is not here" in result.stderr
    assert "make clipart DATA=" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_failed_fetch_leaves_nothing_half_unpacked(tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "dpkg"):
        (tools / name).write_text("#!/bin/sh\nexit 100\n")
        (tools / name).chmod(0o755)
    cache = tmp_path / "a cache"
    result = subprocess.run(
        [FETCH, cache], env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "could not fetch openclipart-png" in result.stderr
    assert list(cache.iterdir()) == []
