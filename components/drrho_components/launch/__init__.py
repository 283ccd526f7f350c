"""Launchers: each takes a training command, a topology and resources, and ends with success or the reason of the failure."""

from drrho_components.launch.base import Launcher, Resources, Topology
from drrho_components.launch.registry import LAUNCHERS, launcher, start_with

__all__ = ["LAUNCHERS", "Launcher", "Resources", "Topology", "launcher", "start_with"]
