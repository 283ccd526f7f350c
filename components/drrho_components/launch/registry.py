"""The launchers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drrho_clip.errors import ConfigError, nearest
from drrho_components.launch.base import Launcher
from drrho_components.launch.cluster import ClusterLauncher
from drrho_components.launch.config import JobConfig
from drrho_components.launch.local import LocalLauncher
from drrho_components.launch.pytorchjob import PYTORCHJOB
from drrho_components.launch.trainjob import TRAINJOB

LAUNCHERS: Mapping[str, Callable[[JobConfig], Launcher]] = {
    "local": LocalLauncher,
    "pytorchjob": lambda config: ClusterLauncher(PYTORCHJOB, config),
    "trainjob": lambda config: ClusterLauncher(TRAINJOB, config),
}


def launcher_for(name: str, config: JobConfig) -> Launcher:
    """Return the launcher called `name`; ConfigError names the nearest ones, LaunchError says what it cannot do."""
    if name not in LAUNCHERS:
        raise ConfigError(f"There is no launcher '{name}'", fix=nearest(name, LAUNCHERS))
    return LAUNCHERS[name](config)
