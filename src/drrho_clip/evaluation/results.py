"""What an evaluation found, as it lies in the store."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from drrho_clip.errors import ConfigError
from drrho_clip.schema import Config


class Score(Config):
    """A share of n trials, and its standard error sqrt(p (1 - p) / n)."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, hits: float, trials: int) -> Self:
        """Make a score of `hits` out of `trials` (at least one)."""
        share = hits / trials
        return cls(value=share, standard_error=math.sqrt(share * (1 - share) / trials))


class Retrieval(Config):
    """Recall at k in both directions, for the k that are smaller than the number of candidates."""

    definition: str
    images: int  # queries of image-to-text: distinct pictures of the split
    captions: int  # queries of text-to-image: distinct captions of the split
    candidate_images: int
    candidate_captions: int
    image_to_text: dict[int, Score]
    text_to_image: dict[int, Score]


class ClassAccuracy(Config):
    """One class: how many pictures it has, and how many of them were given its name first."""

    samples: int
    accuracy: float


class ZeroShot(Config):
    """Zero-shot classification: top-k for the k that are smaller than the number of classes."""

    definition: str
    classes: int
    templates: int
    samples: int
    skipped: dict[str, int]  # pictures left out, by reason
    top: dict[int, Score]
    mean_per_class: float  # over the classes that have pictures
    per_class: dict[str, ClassAccuracy]


class Evaluation(Config):
    """One model on one split of one dataset."""

    kind: Literal["run", "model", "reference"]
    name: str
    model: dict[str, Any]  # the model's record: architecture, weights_sha256, preprocessing, precision, ...
    dataset: str
    dataset_version: int
    split: str
    candidates: Literal["split", "all"]
    shards_id: str  # sha256 over the shards that were read
    classes_id: str = ""  # of the class names and prompts; "none" and "imagenet" by name
    samples: int
    retrieval: Retrieval
    zero_shot: ZeroShot | None
    zero_shot_absent: str = ""  # why there is none
    created: str  # UTC, ISO 8601

    def scalars(self) -> dict[str, float]:
        """The scores as fractions, by stable names: image_to_text_recall_at_1, ..., zero_shot_top_1, zero_shot_mean_per_class."""
        values = {name: score.value for name, score in self._scores().items()}
        if self.zero_shot is not None:
            values["zero_shot_mean_per_class"] = self.zero_shot.mean_per_class
        return values

    def metric(self, name: str) -> float:
        """One score as a fraction; mean_recall_at_K is the mean of both directions. ConfigError with those that there are."""
        scalars = self.scalars()
        sides = [f"{side}_{name.removeprefix('mean_')}" for side in ("image_to_text", "text_to_image")]
        if name.startswith("mean_recall_at_") and all(side in scalars for side in sides):
            return sum(scalars[side] for side in sides) / len(sides)
        if name not in scalars:
            raise ConfigError(
                f"The evaluation of '{self.name}' on '{self.dataset}' has no {name}",
                where="metric",
                fix=f"It has: {', '.join(scalars)}. A recall at K needs more than K candidates.",
            )
        return scalars[name]

    def standard_errors(self) -> dict[str, float]:
        """The standard errors of `scalars`, by the same names, for those that have one."""
        return {name: score.standard_error for name, score in self._scores().items()}

    def _scores(self) -> dict[str, Score]:
        directions = {"image_to_text": self.retrieval.image_to_text, "text_to_image": self.retrieval.text_to_image}
        scores = {f"{side}_recall_at_{k}": score for side, at in directions.items() for k, score in at.items()}
        if self.zero_shot is not None:
            scores |= {f"zero_shot_top_{k}": score for k, score in self.zero_shot.top.items()}
        return scores
