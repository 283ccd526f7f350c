"""Evaluation suites: many published datasets, one score each, and their mean."""

from drrho_clip.evaluation.suite.config import Suite, SuiteTask, load_suite
from drrho_clip.evaluation.suite.results import ModelScores, SuiteResult, TaskResult
from drrho_clip.evaluation.suite.step import evaluate_suite

__all__ = ["ModelScores", "Suite", "SuiteResult", "SuiteTask", "TaskResult", "evaluate_suite", "load_suite"]
