"""A whole study on this machine: its runs one after the other, then its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from drrho_clip.evaluation import Evaluation
from drrho_clip.studies.cell import run_cell
from drrho_clip.studies.matrix import Cell
from drrho_clip.studies.plan import Plan
from drrho_clip.studies.results import StudyResult
from drrho_clip.studies.summary import summarise
from drrho_clip.training.launch import run_locally
from drrho_clip.training.step import Launch

if TYPE_CHECKING:
    from drrho_clip.storage import Store

Told = Callable[[Cell, Evaluation], None]


def run_study(plan: Plan, store: Store, launch: Launch = run_locally, told: Told = lambda cell, found: None) -> StudyResult:
    """Do what is not done of a study, `told` after each run; what is done is found, so that it can be stopped at any time."""
    if plan.weak is not None:
        run_cell(plan, plan.weak.name, store, launch)
    for cell in plan.cells:
        told(cell, run_cell(plan, cell.run, store, launch))
    return summarise(plan, store)
