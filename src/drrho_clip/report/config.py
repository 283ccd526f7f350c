"""Settings of the step `report`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drrho_clip.schema import Config
from drrho_clip.storage import layout


class ReportConfig(Config):
    """Which runs to show, on which evaluation; every field is a scalar."""

    runs: str = Field("drrho", description="Names of the runs, separated by commas")
    dataset: str = Field("", description="Dataset of the evaluation; empty = the one that the first run was trained on")
    split: str = Field(
        "heldout", description="Split of the evaluation, or its label where it was not made with the defaults (heldout-all)"
    )
    comparison: str = Field("", description="Name of a comparison; empty = the report of one run, in its folder")
    gallery: int = Field(12, ge=0, le=60, description="Samples of the largest and of the smallest weight to show, of each run")
    title: str = Field("", description="Heading of the page; empty = made from the names")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.run_names:
            raise ValueError("no run is named in `runs`")
        if len(self.run_names) > 1 and not self.comparison:
            raise ValueError("several runs are shown side by side: give the comparison a name in `comparison`")
        return self

    @property
    def run_names(self) -> tuple[str, ...]:
        """The runs in the order given, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.runs.split(",") if name.strip()))

    @property
    def key(self) -> str:
        """Where the HTML goes in the store."""
        return layout.comparison(self.comparison) if self.comparison else layout.report(self.run_names[0])
