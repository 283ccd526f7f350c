"""The step `evaluate`: image-text retrieval and zero-shot classification of a run, a model or a reference."""

from drrho_clip.evaluation.config import EvaluateConfig
from drrho_clip.evaluation.results import Evaluation, Retrieval, Score, ZeroShot
from drrho_clip.evaluation.step import evaluate, evaluate_checkpoint

__all__ = ["EvaluateConfig", "Evaluation", "Retrieval", "Score", "ZeroShot", "evaluate", "evaluate_checkpoint"]
