"""The contract of a launcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from drrho_clip.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many machines train, and how many processes each of them runs (one per GPU)."""

    nodes: int = 1
    processes_per_node: int = 1

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one node asks of a cluster, as Kubernetes quantities; empty = no request."""

    cpu: str = ""
    memory: str = ""
    gpus: str = ""


class Launcher(Protocol):
    """Starts a training command on some processes and waits for its end."""

    def run(self, command: list[str], topology: Topology, resources: Resources) -> None:
        """Run `python -m drrho_clip.training` with the arguments `command` on every process; return on success.

        Raises LaunchError, or the DrrhoError that stopped the training, with the reason where it did not end well.
        """
