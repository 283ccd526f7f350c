"""Write docs/configuration.md from the configs themselves, so that it says what the code does: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from drrho_clip.config import SECTIONS, RunConfig
from drrho_clip.method import METHODS
from drrho_components.launch import JobConfig

PAGE = Path(__file__).resolve().parents[1] / "docs/configuration.md"
INTRODUCTION = """\
# Configuration

Made from the code by `make docs`.

A run is one YAML file with a section per step; `drrho init` writes one with comments for your data. What is not named keeps its
default. The same settings can be given to a command: `--set train.batch_size=128`, in the command of a single step also without
the section (`drrho train --set batch_size=128`). In a compiled pipeline they are the parameters `data_*` (ingest), `reference_*`,
`train_*`, `evaluate_*`, `report_*` and, for studies, `study_*`. An unknown key or a value outside its limits stops the command
before anything is written, and the message names the nearest keys.
"""
LIMITS = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}


def page() -> str:
    """The whole page: the settings of the run, of each step, and of each method."""
    shared = {name: field for name, field in RunConfig.model_fields.items() if name not in SECTIONS}
    parts = [INTRODUCTION, "## The run\n", table(shared)]
    for name, config in SECTIONS.items():
        parts += [f"## `{name}`\n", f"{summary(config)}\n", table(config.model_fields)]
    parts += [
        "## The job of `train` on a cluster\n",
        "Parameters of a pipeline, with the prefix `train_`; `gpu_*`, `store_secret` and `image_pull_secret` belong to all steps "
        "and have none:\n",
        table(JobConfig.model_fields),
    ]
    parts += [
        "## Methods\n",
        "The defaults of each method, where `train` leaves a setting at the method's own:\n",
    ]
    for name, method in METHODS.items():
        parts += [f"### `{name}`\n", f"{summary(method)}\n", table(method.model_fields)]
    return "\n".join(parts)


def summary(config: type[BaseModel]) -> str:
    """First line of a config's docstring."""
    return (config.__doc__ or "").strip().splitlines()[0]


def table(fields: dict[str, FieldInfo]) -> str:
    """Return one row per setting: name, default, what it takes, what it is for."""
    rows = ["| setting | default | takes | |", "|---|---|---|---|"]
    for name, field in fields.items():
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {default(field)} | {takes(field)} | {description} |")
    return "\n".join(rows) + "\n"


def default(field: FieldInfo) -> str:
    """The default as YAML takes it."""
    value = field.default
    return '`""`' if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def takes(field: FieldInfo) -> str:
    """Type and limits of a setting."""
    limits = [
        f"{sign} {getattr(item, kind.lower()):g}"
        for item in field.metadata
        for kind, sign in LIMITS.items()
        if type(item).__name__ == kind
    ]
    return ", ".join([kind_of(field.annotation), *limits])


def kind_of(annotation: object) -> str:
    """The type in words, or the list of choices."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(kind_of(choice) for choice in get_args(annotation) if choice is not type(None))
    names: dict[object, str] = {Any: "JSON", str: "text", int: "integer", float: "number", bool: "true or false"}
    return names[annotation]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
