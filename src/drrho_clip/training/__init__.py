"""Training: recipe, trainer, checkpoints; `train` is the step."""

from drrho_clip.training.config import TrainConfig
from drrho_clip.training.step import find_summary, read_config, train
from drrho_clip.training.summary import TrainSummary

__all__ = ["TrainConfig", "TrainSummary", "find_summary", "read_config", "train"]
