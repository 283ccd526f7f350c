"""Settings of the step `evaluate`."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from drrho_clip.schema import Config

RECALL_KS = (1, 5, 10)
TOP_KS = (1, 5)
METRICS = (
    *(f"{side}_recall_at_{k}" for side in ("mean", "image_to_text", "text_to_image") for k in RECALL_KS),
    *(f"zero_shot_top_{k}" for k in TOP_KS),
    "zero_shot_mean_per_class",
)
"""The numbers of an evaluation that a decision can rest on, see `Evaluation.metric`."""

FREE = frozenset({"batch_size", "decode_threads"})
"""Settings that change nothing of a result: an evaluation is found whatever they are."""


class EvaluateConfig(Config):
    """What is evaluated (exactly one of run, model and reference) on what; every field is a scalar."""

    run: str = Field("", description="Name of a finished run")
    model: str = Field("", description="ARCHITECTURE/tag or ARCHITECTURE:weights file")
    reference: str = Field(
        "", description="Name of a reference's features; its model is only loaded for zero-shot classification"
    )
    dataset: str = "openmoji"
    split: str = "heldout"
    candidates: Literal["split", "all"] = Field(
        "split", description="What retrieval ranks: the split's own, or the whole dataset's"
    )
    classnames: str = Field(
        "dataset", description="dataset, imagenet, none, or a path or URI of a JSON file {classnames: [...], templates: [...]}"
    )
    batch_size: int = Field(256, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    decode_threads: int = Field(0, ge=0, description="Threads that decode images; 0 = one per core")
    suite: str = Field("", description="datacomp, or a path or URI of a YAML list of tasks; see docs/evaluation.md")
    suite_data: str = Field("", description="Folder or URI with the suite's published datasets, each in a folder of its own")
    checkpoints: str = Field(
        "",
        pattern=r"^(all|last|[1-9][0-9]*)?$",
        description="For a suite: all, last or the newest N of the run, not its final model",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("run", "model", "reference") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"set exactly one of run, model and reference ({' and '.join(given) or 'none'} given)")
        self._check_suite()
        return self

    def _check_suite(self) -> None:
        if self.suite and not self.suite_data:
            raise ValueError(f"suite '{self.suite}' needs suite_data: where its datasets lie")
        if not self.suite and (self.suite_data or self.checkpoints):
            raise ValueError(f"{'suite_data' if self.suite_data else 'checkpoints'} is for a suite, and none is set")
        if self.suite and self.kind == "reference":
            raise ValueError("a suite is evaluated with a run or a model: name the reference's model instead")
        if self.checkpoints and self.kind != "run":
            raise ValueError("checkpoints are those of a run, and none is set")

    @property
    def kind(self) -> Literal["run", "model", "reference"]:
        """Which of the three is evaluated; a model "run:x" is the run x."""
        if self.run or self.model.startswith("run:"):
            return "run"
        return "model" if self.model else "reference"

    @property
    def name(self) -> str:
        """Its name: of the run, of the reference, or the model as it was given."""
        return self.run or self.reference or self.model.removeprefix("run:")

    @property
    def label(self) -> str:
        """The split, and whatever else distinguishes the result's object in the store from that of the defaults."""
        parts = [self.split]
        if self.candidates != "split":
            parts.append(self.candidates)
        if self.classnames != "dataset":
            parts.append(safe_name(self.classnames.rsplit("/", 1)[-1].removesuffix(".json")))
        if self.precision != "fp32":
            parts.append(self.precision)
        return "-".join(parts)


def safe_name(text: str) -> str:
    """Return `text` with everything that cannot be in a key's name replaced."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def check_metric(name: str) -> str:
    """Return the name of one number of an evaluation, see `Evaluation.metric`; ValueError where it can be none."""
    if name not in METRICS:
        raise ValueError(
            "a metric is mean_recall_at_5, image_to_text_recall_at_1, text_to_image_recall_at_1, zero_shot_top_1, ...: recall at "
            f"{', '.join(map(str, RECALL_KS))}, top {' and '.join(map(str, TOP_KS))}"
        )
    return name
