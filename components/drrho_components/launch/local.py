"""Training on this machine."""

from __future__ import annotations

from drrho_clip.errors import LaunchError
from drrho_components.launch.config import JobConfig


class LocalLauncher:
    """One plain process or torchrun on this machine; output is passed through, signals are handed on."""

    def __init__(self, config: JobConfig) -> None:
        if config.nodes > 1:
            raise LaunchError(
                f"The launcher 'local' trains on one machine, not on {config.nodes}",
                fix="Set the number of nodes to 1 and use processes for more GPUs, or use the launcher pytorchjob or trainjob.",
            )
        self.config = config

    def run(self, command: list[str]) -> None:
        """See Launcher."""
        from drrho_clip.training.launch import run_locally

        run_locally(command, processes=self.config.processes)
