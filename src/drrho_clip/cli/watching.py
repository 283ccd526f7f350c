"""The command `watch`: a run that trains elsewhere, in one line."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drrho_clip.cli.options import ConfigOption, StoreOption
from drrho_clip.cli.show import readable

if TYPE_CHECKING:
    from drrho_clip.training.watch import Source

CODES = {"finished": 0, "failed": 1, "silent": 3}


def watch(
    run: Annotated[str | None, typer.Argument(help="Name of the run; that of the config.")] = None,
    config: ConfigOption = None,
    store: StoreOption = None,
    prometheus: Annotated[str | None, typer.Option(help="Address of a Prometheus to ask instead of the store.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    patience: Annotated[float, typer.Option(min=1, help="Seconds without anything new after which it is given up.")] = 1800.0,
) -> None:
    """Show how far a run is, until it ends: step, loss, both variances, samples a second, time left.

    Exit code: 0 it finished (--once: or runs), 1 it failed, 3 nothing new for --patience seconds.

    \b
    Examples:
      drrho watch first --store s3://bucket/prefix
      drrho watch --config my.yaml --once
      drrho watch first --prometheus http://localhost:9090
    """
    from drrho_clip.training.watch import follow

    source = _source(run, config, store, prometheus)
    line = Line()
    try:
        for seen in [source.look()] if once else follow(source, every=every, patience=patience):
            line.show(seen.facts())
    finally:
        line.close()
    if code := CODES.get(seen.state, 0):
        raise typer.Exit(code)


def _source(run: str | None, config: Any, store: str | None, prometheus: str | None) -> Source:
    from drrho_clip.config import load_config
    from drrho_clip.errors import ConfigError
    from drrho_clip.storage import open_store
    from drrho_clip.training.watch import InPrometheus, InStore

    settings = load_config(config) if config else None
    name = run or (settings.run if settings else "")
    uri = store or (settings.store if settings else "")
    if not name:
        raise ConfigError("No run is named", fix="Write `drrho watch RUN`, or give --config.")
    if prometheus:
        return InPrometheus(prometheus, name)
    if not uri:
        raise ConfigError("No store is named", fix="Give --store or --config, or ask a Prometheus with --prometheus URL.")
    return InStore(open_store(uri), name)


class Line:
    """One line that is drawn anew on a terminal; elsewhere a line of JSON for everything new."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown: dict[str, Any] = {}

    def show(self, facts: dict[str, Any]) -> None:
        """Show the facts, if they are others than before."""
        if facts == self._shown:
            return
        self._shown = facts
        if self._terminal:
            text = as_text(facts)[: shutil.get_terminal_size().columns - 1]
            print(f"\r{text}\033[K", end="", flush=True)
        else:
            print(json.dumps(facts), flush=True)

    def close(self) -> None:
        """End the line; what it had no room for is below it."""
        if self._terminal and self._shown:
            print()
            if detail := self._shown.get("detail"):
                print(detail)


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a person reads them."""
    steps = f"{facts['step']:,}/{facts['steps']:,}" if facts["steps"] else f"{facts['step']:,}"
    share = f" ({100 * facts['step'] / facts['steps']:.0f}%)" if facts["steps"] else ""
    parts = [f"{facts['run']} {facts['state']}: step {steps}{share}"]
    named = {"loss": "loss", "variance_of_loss": "Var(l)", "variance_of_rho": "Var(l-l_ref)"}
    parts += [f"{label} {readable(float(facts[name]))}" for name, label in named.items() if name in facts]
    if "samples_per_second" in facts:
        parts.append(f"{readable(float(facts['samples_per_second']))} samples/s")
    if facts.get("seconds_left") and facts["state"] == "running":
        parts.append(f"{timedelta(seconds=round(facts['seconds_left']))} left")
    return "  ".join(parts)
