"""Steer an ordinary image classifier with a reference model, on handwritten digits of which 40% have a wrong label.

    python examples/classifier/steer.py            # five seeds, prints the table
    python examples/classifier/steer.py --seeds 1

Only the loss differs between the methods: plain training takes the mean of the batch's losses, the others a DRRho risk of the
losses minus those of a reference, which was trained on 100 digits with checked labels. Each method has five settings to choose
from, by the accuracy on the validation digits.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drrho_clip.method.risk import Risk, chi_square, cvar, kl, kl_fixed

WRONG = 0.4
REFERENCE, VALIDATION, TEST = 100, 200, 500  # the rest, 997 digits, is for training
BATCH, EPOCHS = 128, 30

# (losses [b], reference's losses [b]) -> the risk of a batch
BatchRisk = Callable[[Tensor, Tensor], Risk]


class Part(NamedTuple):
    """Some digits: images [n, 1, 8, 8], labels [n], and whether each label was made wrong."""

    images: Tensor
    labels: Tensor
    wrong: Tensor


class Outcome(NamedTuple):
    """Accuracy on the validation and the test digits; mean weight of wrongly and of rightly labelled samples, 1 = average."""

    validation: float
    test: float
    wrong_weight: float
    right_weight: float


def average(losses: Tensor, _reference: Tensor) -> Risk:
    """Plain training: every sample counts the same."""
    return Risk(losses.mean(), torch.full_like(losses, 1 / len(losses)))


WEIGHT_DECAY = 0.01
METHODS: Mapping[str, Sequence[tuple[BatchRisk, float]]] = {  # five settings each: the risk, and the weight decay
    "plain": [(average, decay) for decay in (0.0, WEIGHT_DECAY, 0.1, 0.3, 1.0)],  # it has no setting of its own
    "CVaR": [(partial(cvar, alpha=alpha), WEIGHT_DECAY) for alpha in (0.2, 0.35, 0.5, 0.65, 0.8)],
    "KL, fixed temperature": [(partial(kl_fixed, temperature=tau), WEIGHT_DECAY) for tau in (0.1, 0.3, 1.0, 3.0, 10.0)],
    "KL, radius": [(partial(kl, radius=radius), WEIGHT_DECAY) for radius in (5, 20, 60, 120, 240)],
    "chi-square, radius": [(partial(chi_square, radius=radius), WEIGHT_DECAY) for radius in (5, 20, 40, 80, 160)],
}


def split(seed: int) -> tuple[Part, Part, Part, Part]:
    """Digits for the reference (labels right), training (40% wrong), validation and test (labels right)."""
    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    sizes = [REFERENCE, len(labels) - REFERENCE - VALIDATION - TEST, VALIDATION, TEST]
    parts = []
    for number, index in enumerate(torch.randperm(len(labels), generator=generator).split(sizes)):
        wrong = torch.rand(len(index), generator=generator) < (WRONG if number == 1 else 0)
        shift = torch.randint(1, 10, (len(index),), generator=generator)
        parts.append(Part(images[index], torch.where(wrong, (labels[index] + shift) % 10, labels[index]), wrong))
    return parts[0], parts[1], parts[2], parts[3]


def train(part: Part, risk: BatchRisk, reference: Tensor, seed: int, decay: float = WEIGHT_DECAY) -> tuple[nn.Module, Tensor]:
    """Return the classifier and the mean weight [n] of every sample over all epochs, times the batch size."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=decay)
    weights = torch.zeros(len(part.labels))
    for _ in range(EPOCHS):
        for index in torch.randperm(len(part.labels)).split(BATCH):
            losses = cross_entropy(model(part.images[index]), part.labels[index], reduction="none")
            result = risk(losses, reference[index])
            optimiser.zero_grad()
            result.value.backward()
            optimiser.step()
            weights[index] += result.weights * len(index) / EPOCHS
    return model.eval(), weights


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """Share of the digits that are told right."""
    return (model(part.images).argmax(1) == part.labels).float().mean().item()


@torch.no_grad()
def losses_of(model: nn.Module, part: Part) -> Tensor:
    """The reference's losses [n]: computed once, the model is not needed any more."""
    return cross_entropy(model(part.images), part.labels, reduction="none")


def run(seed: int) -> dict[str, Outcome]:
    """The outcome of the reference and of every method at its best setting, by its name."""
    clean, noisy, validation, test = split(seed)
    nothing = torch.zeros(len(clean.labels))
    reference, _ = train(clean, average, nothing, seed)
    known = losses_of(reference, noisy)
    outcomes = {"reference": Outcome(accuracy(reference, validation), accuracy(reference, test), 0, 1)}
    for name, settings in METHODS.items():
        tried = []
        for risk, decay in settings:
            model, weights = train(noisy, risk, known, seed, decay)
            means = (weights[noisy.wrong].mean().item(), weights[~noisy.wrong].mean().item())
            tried.append(Outcome(accuracy(model, validation), accuracy(model, test), *means))
        outcomes[name] = max(tried, key=lambda outcome: outcome.validation)
    return outcomes


def main() -> None:
    """Print the table over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    runs = [run(seed) for seed in range(parser.parse_args().seeds)]
    print("| | test accuracy % | weight of wrong labels | of right labels |\n|---|---|---|---|")
    for name in runs[0]:
        test = [100 * outcomes[name].test for outcomes in runs]
        error = f" ± {statistics.stdev(test) / len(test) ** 0.5:.1f}" if len(test) > 1 else ""
        wrong = statistics.fmean(outcomes[name].wrong_weight for outcomes in runs)
        right = statistics.fmean(outcomes[name].right_weight for outcomes in runs)
        print(f"| {name} | {statistics.fmean(test):.1f}{error} | {wrong:.2f} | {right:.2f} |")


if __name__ == "__main__":
    main()
