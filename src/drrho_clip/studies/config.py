"""Settings of the studies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

from pydantic import Field, field_validator, model_validator

from drrho_clip.errors import nearest
from drrho_clip.evaluation.config import check_metric
from drrho_clip.method import METHODS
from drrho_clip.schema import Config

T = TypeVar("T")

FREE = frozenset({"measure", "predict", "irreducible"})
"""Settings that are about the report of a study alone, and no run of it."""


class AdviseConfig(Config):
    """What the advisor looks at, beside the training that is planned."""

    references: str = Field(description="Names of the references' features, separated by commas")
    pilot_fraction: float = Field(0.02, gt=0, le=1, description="Share of the planned samples that the pilot model sees")
    pilot_steps: int = Field(50, ge=1, description="Steps that the pilot takes at least, where that share is less")

    @property
    def names(self) -> list[str]:
        """The references, one by one."""
        return split_list(self.references)

    @field_validator("references")
    @classmethod
    def _some(cls, value: str) -> str:
        names = split_list(value)
        if not names or len(set(names)) < len(names):
            raise ValueError("give one or several references, each once")
        return value


class StudyConfig(Config):
    """What a study compares; everything else of its trainings is what `train` says. Every field is a scalar."""

    name: str = Field("", description="Name of the study, first part of its runs' names; empty = DATASET-KIND")
    methods: str = Field("openclip,fastclip,drrho", description="Methods to compare, separated by commas")
    baseline: str = Field("fastclip", description="Which of them the others are compared with")
    references: str = Field(
        "", description="Names of references' features, separated by commas; empty = the one of `train`, if it has one"
    )
    seeds: str = Field("0,1,2", description="Seeds of the trainings, separated by commas: one run of each method for every seed")
    settings: str = Field("", description="What a method sets for itself: METHOD.SETTING=VALUE, separated by commas")
    fractions: str = Field("0.25,0.5,0.75,1", description="data_efficiency: shares of the data to train on, separated by commas")
    architectures: str = Field("", description="scaling: model sizes, separated by commas; empty = that of `train`")
    budgets: str = Field("", description="scaling: samples seen, separated by commas; empty = those of `train`")
    irreducible: bool = Field(False, description="scaling: fit an error that no compute removes, too; the published law has none")
    predict: str = Field("", description="scaling: computes to predict the error of, in GFLOPs, separated by commas")
    weak_architecture: str = Field("", description="weak_to_strong: architecture of the reference, smaller than that of `train`")
    weak_samples: int = Field(
        0, ge=0, description="weak_to_strong: samples that the reference sees; 0 = half as many as the others"
    )
    weak_fraction: float = Field(
        0.5, gt=0, le=1, description="weak_to_strong: share of the data that the reference is trained on"
    )
    measure: str = Field(
        "mean_recall_at_5",
        description="What the study is about: mean_recall_at_K (of both directions), image_to_text_recall_at_K, "
        "text_to_image_recall_at_K, zero_shot_top_K or zero_shot_mean_per_class",
    )
    curve_points: int = Field(
        4, ge=0, le=50, description="Checkpoints of each run that are kept and evaluated on the way; 0 = the finished model alone"
    )

    @property
    def method_names(self) -> list[str]:
        """The methods, one by one."""
        return split_list(self.methods)

    @property
    def reference_names(self) -> list[str]:
        """The references that are named, one by one."""
        return split_list(self.references)

    @property
    def seed_numbers(self) -> list[int]:
        """The seeds, one by one."""
        return _parsed(self.seeds, int, "seeds")

    @property
    def fraction_numbers(self) -> list[float]:
        """The shares of the data, smallest first."""
        return sorted(_parsed(self.fractions, float, "fractions"))

    @property
    def architecture_names(self) -> list[str]:
        """The model sizes that are named, one by one."""
        return split_list(self.architectures)

    @property
    def budget_numbers(self) -> list[int]:
        """The samples seen, fewest first."""
        return sorted(_parsed(self.budgets, _whole, "budgets"))

    @property
    def predicted_computes(self) -> list[float]:
        """The computes to predict the error of, in GFLOPs."""
        return _parsed(self.predict, float, "predict")

    @property
    def own_settings(self) -> dict[str, dict[str, str]]:
        """What each method sets for itself, by method."""
        found: dict[str, dict[str, str]] = {}
        for item in split_list(self.settings):
            name, equals, value = item.partition("=")
            method, dot, key = name.strip().partition(".")
            if not (equals and dot and key):
                raise ValueError(f"settings: '{item}' is no setting: write METHOD.SETTING=VALUE, as in drrho.temperature=0.1")
            if method not in self.method_names:
                raise ValueError(f"settings: '{method}' is not among the methods. " + nearest(method, self.method_names))
            found.setdefault(method, {})[key] = value.strip()
        return found

    @field_validator("measure")
    @classmethod
    def _known_measure(cls, value: str) -> str:
        return check_metric(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for method in self.method_names:
            if method not in METHODS:
                raise ValueError(f"methods: unknown method '{method}'. " + nearest(method, METHODS))
        numbers = {"seeds": list(map(str, self.seed_numbers)), "fractions": [f"{share:g}" for share in self.fraction_numbers]}
        sizes = {"architectures": self.architecture_names, "budgets": list(map(str, self.budget_numbers))}
        optional = {"references": self.reference_names, **sizes}
        for name, values in {"methods": self.method_names, **numbers, **optional}.items():
            if not values and name not in optional:
                raise ValueError(f"{name}: give at least one")
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name}: {twice[0]} is given twice")
        if self.baseline not in self.method_names:
            raise ValueError(
                f"baseline: '{self.baseline}' is not among the methods. " + nearest(self.baseline, self.method_names)
            )
        if wrong := [seed for seed in self.seed_numbers if seed < 0]:
            raise ValueError(f"seeds: {wrong[0]} is below 0")
        if wrong_shares := [share for share in self.fraction_numbers if not 0 < share <= 1]:
            raise ValueError(f"fractions: {wrong_shares[0]:g} is no share: it must be above 0, and 1 at most")
        if low := [number for number in (*self.budget_numbers, *self.predicted_computes) if not number > 0]:
            raise ValueError(f"budgets, predict: {low[0]:g} is not above 0")
        _ = self.own_settings
        return self


def split_list(text: str) -> list[str]:
    """The items of a list that is separated by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _parsed(text: str, kind: Callable[[str], T], what: str) -> list[T]:
    try:
        return [kind(item) for item in split_list(text)]
    except ValueError:
        raise ValueError(f"{what}: '{text}' is no list of numbers separated by commas") from None
