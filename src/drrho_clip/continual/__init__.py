"""Training that goes on as data comes in: one run at a time, from the best model so far, promoted only where it is better."""

from drrho_clip.continual.arrivals import Work, find_work
from drrho_clip.continual.config import LeaseConfig, PromoteConfig
from drrho_clip.continual.promotion import Decision, Promoted, find_promoted, promote

__all__ = [
    "Decision",
    "LeaseConfig",
    "PromoteConfig",
    "Promoted",
    "Work",
    "find_promoted",
    "find_work",
    "promote",
]
