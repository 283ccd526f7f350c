"""The step `reference`: a reference model's features and losses of every sample of a dataset."""

from drrho_clip.reference.config import ReferenceConfig
from drrho_clip.reference.step import compute_reference, other_workers

__all__ = ["ReferenceConfig", "compute_reference", "other_workers"]
