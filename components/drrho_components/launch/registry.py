"""The launchers by name."""

from __future__ import annotations

from collections.abc import Callable

from drrho_clip.errors import ConfigError, LaunchError, nearest
from drrho_components.launch.base import Launcher, Resources, Topology
from drrho_components.launch.local import LocalLauncher

LAUNCHERS = ("local", "pytorchjob", "trainjob")


def launcher(name: str) -> Launcher:
    """Return the launcher called `name`; ConfigError names the nearest ones, LaunchError says what it lacks."""
    if name not in LAUNCHERS:
        raise ConfigError(f"There is no launcher '{name}'", fix=nearest(name, LAUNCHERS))
    if name != "local":
        raise LaunchError(
            f"The launcher '{name}' needs a Kubernetes cluster and is not part of this version",
            fix="Use the launcher 'local': it trains inside the step, on all GPUs that the step asks for.",
        )
    return LocalLauncher()


def start_with(name: str, *, nodes: int, processes: int) -> Callable[[list[str]], None]:
    """What the step `train` starts its command with: the launcher `name` on `nodes` machines of `processes` each."""
    chosen, topology = launcher(name), Topology(nodes=int(nodes), processes_per_node=int(processes))
    return lambda command: chosen.run(command, topology, Resources())
