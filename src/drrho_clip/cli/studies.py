"""Commands that ask something of data and references with several models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drrho_clip.cli.options import ConfigOption, DatasetOption, SetOption, StoreOption, resolve
from drrho_clip.cli.show import show

if TYPE_CHECKING:
    from drrho_clip.studies.advisor import Advice


def advise(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", help="Name of a reference's features; may be repeated.")
    ] = None,
    pilot: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Share of the samples that the pilot model sees.")] = 0.02,
    pilot_steps: Annotated[int, typer.Option(min=1, help="Steps that the pilot takes at least.")] = 50,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU.")] = 1,
    assignments: SetOption = None,
) -> None:
    """Say which reference to steer by, and with which temperature and eps, before any training.

    \b
    Examples:
      drrho advise --config my.yaml
      drrho advise --config my.yaml --reference vit-b-32-openai --reference vit-l-14-openai
      drrho advise --store ./store --dataset pets --reference clean --set train.architecture=drrho-small
    """
    flags = {"store": store, "dataset": dataset, "train.method": "openclip"}
    settings = resolve(config, assignments, flags, section="train")
    from drrho_clip.storage import open_store
    from drrho_clip.studies import AdviseConfig
    from drrho_clip.studies.advisor import advise as ask
    from drrho_clip.training.launch import run_locally

    names = reference or [name for name in (settings.train.reference,) if name]
    asked = AdviseConfig.parse({"references": ",".join(names), "pilot_fraction": pilot, "pilot_steps": pilot_steps})
    found = ask(asked, settings.train, open_store(settings.store), lambda command: run_locally(command, processes=processes))
    _show(found)


def _show(advice: Advice) -> None:
    facts = advice.model_dump(exclude={"references"})
    show("advice", {**facts, "best": advice.best.reference if advice.best else "none will help"})
    for rank, found in enumerate(advice.references, 1):
        show(f"{rank}. {found.reference}", found.model_dump(exclude={"reference"}))
