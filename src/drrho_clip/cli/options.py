"""Options that several commands share, and how flags, --set and a config file become one config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from drrho_clip.config import RunConfig

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML with the settings of the whole run; `drrho init` writes one.")
]
StoreOption = Annotated[
    str | None, typer.Option("--store", "-s", help="Where everything is kept: a folder or s3://bucket/prefix.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. --set train.batch_size=128; may be repeated."),
]
DatasetOption = Annotated[str | None, typer.Option("--dataset", "-d", help="Name of the dataset in the store.")]
RunOption = Annotated[str | None, typer.Option("--run", "-r", help="Name of the training run.")]


def resolve(config: Path | None, assignments: list[str] | None, flags: Mapping[str, Any], *, section: str = "") -> RunConfig:
    """The config of the run: the file, then the flags that were given (by dotted key), then --set.

    In the command of one step, `section`, --set also takes that step's own keys without their prefix.
    """
    from drrho_clip.config import load_config

    given = {key: value for key, value in flags.items() if value is not None}
    return load_config(config, assignments or [], given=given, section=section)
