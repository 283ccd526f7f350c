"""Training: recipe, trainer, checkpoints; `train` is the step."""

from drrho_clip.training.config import TrainConfig

__all__ = ["TrainConfig"]
