"""Questions that are asked of data and references with several models: the advisor, and studies that compare many runs."""

from drrho_clip.studies.config import AdviseConfig, StudyConfig

__all__ = ["AdviseConfig", "StudyConfig"]
