"""The pipelines, what compiles and runs them, and the console script `drrho`."""

from drrho_pipelines.server import submit

__all__ = ["submit"]
