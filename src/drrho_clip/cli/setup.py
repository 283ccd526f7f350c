"""Commands around the steps: init, doctor, version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drrho_clip.cli.options import ConfigOption, StoreOption
from drrho_clip.cli.show import show
from drrho_clip.errors import ConfigError

if TYPE_CHECKING:
    from drrho_clip.doctor import Finding


def init(
    data: Annotated[str, typer.Argument(help="Your data: a folder of images, tars (folder, file or URL), or a table.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The config file to write.")] = Path("my.yaml"),
    store: StoreOption = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Name for the dataset; made from the path.")] = None,
    small: Annotated[bool, typer.Option("--small/--published", help="Train small on a CPU, or as published.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a commented config for your own data; looks at the path and guesses the kind of source.

    \b
    Examples:
      drrho init ~/pets
      drrho init s3://bucket/shards/ --store s3://bucket/drrho --published --out cc12m.yaml
    """
    from drrho_clip.cli.template import commented_yaml, guess_source
    from drrho_clip.config import SMALL

    ingest = guess_source(data)
    name = dataset or _name(data)
    values = {
        "store": store or "store",
        "dataset": name,
        "run": f"{name}-drrho",
        "ingest": ingest,
        "train": {"method": "drrho", **({**SMALL, "temperature": "auto", "eps": "auto"} if small else {})},
    }
    text = commented_yaml(values, str(out))
    try:
        with open(out, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            "The file exists", where=str(out), fix="Choose another with --out, or replace it with --force."
        ) from None
    except OSError as error:
        raise ConfigError(f"The file cannot be written: {error.strerror}", where=str(out)) from None
    show(f"config {out}", {"dataset": name, **ingest, "next": f"drrho pipeline run --config {out}"})


def doctor(config: ConfigOption = None, store: StoreOption = None) -> None:
    """Look whether everything is there: Python, torch, GPU, store, write access, disk; say what to do where not.

    \b
    Examples:
      drrho doctor --store s3://bucket/prefix
      drrho doctor --config my.yaml
    """
    from drrho_clip.config import load_config
    from drrho_clip.doctor import examine

    say(examine(store or (load_config(config).store if config else None)))


def say(findings: list[Finding]) -> None:
    """Print what was found; exit code 2 where something of it will not work."""
    from drrho_clip.doctor import render

    typer.echo(render(findings))
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(2)


def version() -> None:
    """Print the version."""
    from drrho_clip import __version__

    typer.echo(__version__)


def _name(data: str) -> str:
    stem = os.path.basename(data.rstrip("/")).split(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-") or "data"
