"""Every method learns: after a few seconds it tells scenes apart that a broken loss would not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from drrho_clip.evaluation import EvaluateConfig, evaluate
from drrho_clip.method import METHODS
from drrho_clip.method.contrastive import Contrast, contrast
from drrho_clip.reference import ReferenceConfig, compute_reference
from drrho_clip.storage import Store, open_store
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.__main__ import main


def learn(store: Store, run: str, **changed) -> None:
    settings = {
        "dataset": "scenes",
        "architecture": "drrho-nano",
        "batch_size": 32,
        "samples": 32 * 150,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
        "temperature": 0.1,
        "augmentation": "none",
        "log_steps": 50,
    }

    def in_process(arguments: list[str]) -> None:
        assert main(arguments) == 0

    train(TrainConfig.parse({**settings, "run": run, **changed}), store, launch=in_process)


@pytest.fixture(scope="module")
def taught(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the generated scenes and the features of a reference that was trained on them."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(scenes_folder, folder, dirs_exist_ok=True)
    store = open_store(folder)
    learn(store, "teacher", method="openclip", seed=7)
    compute_reference(ReferenceConfig.parse({"dataset": "scenes", "model": "run:teacher", "name": "teacher"}), store)
    return store


THRESHOLD = 3 * 10 / 350
"""Three times the chance to have the right one among ten."""


def recall(store: Store, run: str) -> float:
    result = evaluate(EvaluateConfig.parse({"run": run, "dataset": "scenes", "split": "train"}), store).scalars()
    return min(result["image_to_text_recall_at_10"], result["text_to_image_recall_at_10"])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_to_tell_scenes_apart(taught, method):
    learn(taught, method, method=method, reference="teacher")
    assert recall(taught, method) > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize("method", ["openclip", "drrho"])
def test_a_loss_that_gives_each_sample_its_neighbour_s_gradient_does_not(taught, method, monkeypatch):
    def broken(*args: Any, **options: Any) -> Contrast:
        sums = contrast(*args, **options)
        image, text = sums.gradient
        return sums._replace(gradient=(image.roll(1, 0), text.roll(1, 0)))

    monkeypatch.setattr("drrho_clip.method.objective.contrast", broken)
    learn(taught, f"broken-{method}", method=method, reference="teacher")
    assert recall(taught, f"broken-{method}") < THRESHOLD
