"""Questions that are asked of data and references with several models: the advisor."""

from drrho_clip.studies.config import AdviseConfig

__all__ = ["AdviseConfig"]
