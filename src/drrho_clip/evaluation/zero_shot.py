"""Zero-shot classification: the class whose name, put into the prompts, is most similar to the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drrho_clip.evaluation.config import TOP_KS
from drrho_clip.evaluation.results import ClassAccuracy, Score, ZeroShot

if TYPE_CHECKING:
    from drrho_clip.evaluation.classes import ClassList
    from drrho_clip.models import Encoder

DEFINITION = (
    "top k: share of the pictures whose own class is among the k most similar of all classes; a class is the mean of the text "
    "features of its prompts (open_clip.build_zero_shot_classifier). Each picture counts once. Classes as similar as one's own "
    "are ranked before it. mean_per_class: mean of the classes' top-1 accuracies."
)


@dataclass(frozen=True)
class Labels:
    """Which pictures have a class of the list: their rows, the number of their class, and how many were left out, and why."""

    rows: list[int]
    numbers: list[int]
    skipped: dict[str, int]


def label(values: Sequence[object], classnames: Sequence[str]) -> Labels:
    """Find the classes of pictures: by name, or by number where the list has no such name."""
    by_name = {name: number for number, name in reversed(list(enumerate(classnames)))}
    rows, numbers = [], []
    skipped: Counter[str] = Counter()
    for row, value in enumerate(values):
        number = by_name.get(str(value), _as_number(value, len(classnames)))
        if value is None or value == "":
            skipped["without a class"] += 1
        elif number is None:
            skipped["class not in the list"] += 1
        else:
            rows.append(row)
            numbers.append(number)
    return Labels(rows, numbers, dict(skipped))


def _as_number(value: object, classes: int) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and int(text) < classes else None


def build_classifier(encoder: Encoder, classes: ClassList) -> Tensor:
    """Return the text features of the classes: float32 [classes, dim], unit norm, on the CPU."""
    import open_clip

    with torch.inference_mode(), encoder.autocast():
        weights: Tensor = open_clip.build_zero_shot_classifier(
            encoder.model, encoder.tokenizer, classes.classnames, classes.templates, device=encoder.device
        )
    return torch.nn.functional.normalize(weights.T.float(), dim=-1).cpu()


def classify(images: Tensor, classifier: Tensor, labels: Labels, classes: ClassList) -> ZeroShot:
    """Score pictures [n, dim] against `classifier` [classes, dim], unit norm; at least one of them has a label."""
    numbers = torch.tensor(labels.numbers)
    similarity = images[labels.rows] @ classifier.T
    own = similarity.gather(1, numbers[:, None])
    similarity.scatter_(1, numbers[:, None], -torch.inf)
    ranks = 1 + (~(similarity < own)).sum(dim=1)
    per_class = {
        name: ClassAccuracy(samples=len(hits), accuracy=float(hits.float().mean()))
        for number, name in enumerate(_unique_names(classes.classnames))
        if len(hits := ranks[numbers == number] <= 1)
    }
    return ZeroShot(
        definition=DEFINITION,
        classes=len(classes.classnames),
        templates=len(classes.templates),
        samples=len(numbers),
        skipped=labels.skipped,
        top={k: Score.of(float((ranks <= k).sum()), len(ranks)) for k in TOP_KS if k < len(classes.classnames)},
        mean_per_class=sum(found.accuracy for found in per_class.values()) / len(per_class),
        per_class=per_class,
    )


def _unique_names(names: Sequence[str]) -> list[str]:
    """Tell classes of one name apart by their number (ImageNet has two called "missile" and two called "sunglasses")."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]
