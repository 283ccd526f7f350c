"""The commands of the library; `make_app` gives them, `run_app` runs them with clear errors."""

from drrho_clip.cli.app import add_command, make_app, run_app

__all__ = ["add_command", "make_app", "run_app"]
