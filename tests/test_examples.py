"""The examples that are programs, in a short version."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path

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
