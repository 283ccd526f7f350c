"""The steps of the library as Kubeflow Pipelines components, one per module, and the launchers that start training."""

from importlib.metadata import version

IMAGE = f"drrho-clip:{version('drrho-clip')}"
"""Image of every component where none is given when compiling."""
