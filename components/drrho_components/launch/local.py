"""Training on this machine."""

from __future__ import annotations

from drrho_clip.errors import LaunchError
from drrho_components.launch.base import Resources, Topology


class LocalLauncher:
    """One plain process or torchrun on this machine; output is passed through, signals are handed on."""

    def run(self, command: list[str], topology: Topology, resources: Resources) -> None:
        """See Launcher."""
        from drrho_clip.training.launch import run_locally

        if topology.nodes > 1:
            raise LaunchError(
                f"The launcher 'local' trains on one machine, not on {topology.nodes}",
                fix="Set the number of nodes to 1; use processes for more GPUs.",
            )
        run_locally(command, processes=topology.processes_per_node)
