"""The command `verify`: everything that was published, read once more."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from drrho_clip.cli.options import StoreOption
from drrho_clip.cli.show import show
from drrho_clip.errors import ConfigError

FOLDERS = {"dataset": "datasets", "run": "runs"}
SHOWN = 20


def verify(
    kind: Annotated[Literal["dataset", "run"], typer.Argument(help="What it is.")],
    target: Annotated[str, typer.Argument(metavar="URI", help="Its URI, or its name with --store.")],
    store: StoreOption = None,
    version: Annotated[int | None, typer.Option(min=1, help="Version of the dataset; the newest by default.")] = None,
) -> None:
    """Read a dataset or run again, byte by byte: every sample and published checkpoint; exit code 1 where one is damaged.

    \b
    Examples:
      drrho verify dataset s3://bucket/prefix/datasets/pets
      drrho verify run pets-drrho --store ./store
    """
    from drrho_clip.storage import open_store
    from drrho_clip.verification import verify_dataset, verify_run

    where, name = (store, target) if store else _parts(kind, target)
    opened = open_store(where)
    if kind == "run" and version is not None:
        raise ConfigError("A run has no version", fix="Leave --version out.")
    found = verify_dataset(opened, name, version) if kind == "dataset" else verify_run(opened, name)
    for line in [*found.problems[:SHOWN], *found.notes[:SHOWN]]:
        typer.echo(line, err=True)
    show(f"{kind} {name}", {**found.counts, "problems": len(found.problems), "notes": len(found.notes)})
    if found.problems:
        raise typer.Exit(1)


def _parts(kind: str, uri: str) -> tuple[str, str]:
    """Store and name of what a URI leads to."""
    where, slash, rest = uri.rstrip("/").rpartition(f"/{FOLDERS[kind]}/")
    if not slash or "/" in rest:
        raise ConfigError(
            f"This is not the URI of a {kind}",
            where=uri,
            fix=f"Write STORE/{FOLDERS[kind]}/NAME, or the name and --store.",
        )
    return where, rest
