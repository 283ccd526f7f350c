"""Studies of the smallest size: their trainings run in this process, and are counted."""

from __future__ import annotations

from typing import Any

from drrho_clip.config import RunConfig
from drrho_clip.storage import Store
from drrho_clip.studies.plan import Plan, plan_study
from drrho_clip.training.__main__ import main

TINY = {"reference": "ref", "architecture": "drrho-nano", "batch_size": 32, "samples": 96, "warmup_steps": 1, "temperature": 0.1}
STUDY = {"methods": "fastclip,drrho", "seeds": "0,1", "curve_points": 1}


class Launcher:
    """Trains in this process; `fail_at` is the number of the training that is killed, counted from 1."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.fail_at = 0

    def __call__(self, arguments: list[str], processes: int = 1) -> None:
        self.started.append(arguments[arguments.index("--run") + 1])
        if len(self.started) == self.fail_at:
            raise KeyboardInterrupt
        assert main(arguments) == 0


def planned(
    store: Store,
    kind: str = "comparison",
    *,
    train: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    **study: Any,
) -> Plan:
    """Plan a study of the dataset `scenes`."""
    values = {"dataset": "scenes", "train": {**TINY, **(train or {})}, "evaluate": evaluate or {}, "study": {**STUDY, **study}}
    config = RunConfig.parse(values)
    return plan_study(kind, config.study, config.train, config.evaluate, store)
