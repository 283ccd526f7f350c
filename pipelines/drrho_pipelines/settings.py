"""What the demo compares: one dirty dataset, a reference trained on its clean part, every method on all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from drrho_clip.config import RunConfig, read_yaml
from drrho_clip.report.config import ReportConfig
from drrho_clip.schema import Config

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ingest": {
        "source": "openmoji",
        "caption_template": "{name}, {group}",  # zero-shot prompts are made of the groups, of which no name speaks
        "image_size": 32,
        "caption_noise": 0.3,
        "heldout_fraction": 0.15,
        "validation_fraction": 0.1,
    },
    "reference_train": {"method": "openclip", "architecture": "drrho-tiny"},
    "train": {
        "architecture": "drrho-small",
        "batch_size": 256,
        "samples": 51_200,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "warmup_steps": 20,
        "gamma_min": 0.6,
        "augmentation": "shift",
        "checkpoint_steps": 100,
    },
    "evaluate": {"candidates": "all"},
    "report": {},
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "openclip": {"temperature": 0.2},
    "fastclip": {"temperature": 0.2},
    "drrho": {"temperature": 0.1, "eps": 0.1},
}
"""Each the best of six on the validation split (docs/results.md); the first two are where a learnt temperature starts."""


class DemoSettings(Config):
    """Everything that the demo does; each section holds settings of one step, what is not named keeps its default here."""

    name: str = Field("openmoji", description="Name of the dataset and the comparison, first part of the runs' names")
    seed: int = Field(0, ge=0, description="Seed of every training; other seeds than 0 make runs of their own")
    ingest: dict[str, Any] = Field({}, description="The dataset; its clean part leaves the exchanged captions out")
    reference_train: dict[str, Any] = Field({}, description="Training of the reference, beside what `train` says")
    train: dict[str, Any] = Field({}, description="What all methods share")
    methods: dict[str, dict[str, Any]] = Field({}, description="Which methods, and what each sets for itself; empty = all")
    evaluate: dict[str, Any] = Field({}, description="Evaluation of every model")
    report: dict[str, Any] = Field({}, description="The page")

    @field_validator("ingest", "reference_train", "train", "evaluate", "report", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: Any) -> Any:
        return {**DEFAULTS[info.field_name], **value} if isinstance(value, Mapping) else value

    @field_validator("methods", mode="before")
    @classmethod
    def _methods_over_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {method: {**METHODS.get(method, {}), **(own or {})} for method, own in (value or METHODS).items()}

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for section in ("ingest", "reference_train", "train", "evaluate", "report"):
            if taken := sorted({"dataset", "run", "runs", "comparison"} & set(getattr(self, section))):
                raise ValueError(f"'{section}.{taken[0]}' follows from `name`: leave it out")
        return self

    @property
    def comparison(self) -> str:
        """Name of the comparison."""
        return self.name + self._suffix

    @property
    def reference_run(self) -> str:
        """Name of the run that becomes the reference."""
        return f"{self.name}-reference{self._suffix}"

    def run_name(self, method: str) -> str:
        """Name of the run of one method."""
        return f"{self.name}-{method}{self._suffix}"

    def reference_config(self, store: str) -> RunConfig:
        """The clean part, and the training of the reference on it."""
        train = {**self.train, **self.reference_train, "seed": self.seed}
        clean = {**self.ingest, "caption_noise_part": "clean"}
        return self._config(store, f"{self.name}-clean", self.reference_run, clean, train, {})

    def method_config(self, store: str, method: str) -> RunConfig:
        """All of the data, and the training of one method with the reference's features."""
        train = {**self.train, **self.methods[method], "method": method, "seed": self.seed}
        reference = {"model": f"run:{self.reference_run}"}
        return self._config(store, self.name, self.run_name(method), self.ingest, train, reference)

    def comparison_config(self, store: str) -> ReportConfig:
        """The report of all methods side by side."""
        report = self.method_config(store, next(iter(self.methods))).report
        names = ",".join(self.run_name(method) for method in self.methods)
        return report.model_copy(update={"runs": names, "comparison": self.comparison})

    def _config(
        self,
        store: str,
        dataset: str,
        run: str,
        ingest: Mapping[str, Any],
        train: Mapping[str, Any],
        reference: Mapping[str, Any],
    ) -> RunConfig:
        parts = {"ingest": ingest, "train": train, "reference": reference, "evaluate": self.evaluate, "report": self.report}
        return RunConfig.parse({"store": store, "dataset": dataset, "run": run, **parts}, where=f"demo {self.name}")

    @property
    def _suffix(self) -> str:
        return f"-seed{self.seed}" if self.seed else ""


def load_demo(path: Path | None, *, data: str | None = None, seed: int | None = None) -> DemoSettings:
    """The demo's own settings, or those of a YAML file; `data` is the path that `ingest` reads."""
    values = read_yaml(path) if path else {}
    if data is not None:
        values["ingest"] = {**(values.get("ingest") or {}), "path": data}
    if seed is not None:
        values["seed"] = seed
    settings = DemoSettings.parse(values, where=str(path or ""))
    settings.reference_config("store")  # every mistake in a section is found before anything starts
    for method in settings.methods:
        settings.method_config("store", method)
    return settings
