"""Launchers: each takes a training command and a job's settings, and ends with success or the reason of the failure."""

from drrho_components.launch.base import Launcher
from drrho_components.launch.config import JobConfig
from drrho_components.launch.registry import LAUNCHERS, launcher_for

__all__ = ["LAUNCHERS", "JobConfig", "Launcher", "launcher_for"]
