"""DRRho-CLIP: train CLIP models that are steered by a reference model (arXiv 2505.06699)."""

from importlib.metadata import version

__version__ = version("drrho-clip")
