"""One cell of a study: a training and its evaluation, each of which finds what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drrho_clip.evaluation import Evaluation, evaluate, evaluate_checkpoint
from drrho_clip.models import list_checkpoints
from drrho_clip.observe import get_logger
from drrho_clip.reference import compute_reference
from drrho_clip.report import ReportConfig, write_report
from drrho_clip.storage import layout
from drrho_clip.studies.plan import Plan, check_dataset
from drrho_clip.studies.weak import WeakReference
from drrho_clip.training import train
from drrho_clip.training.launch import run_locally
from drrho_clip.training.step import Launch

if TYPE_CHECKING:
    from drrho_clip.storage import Store


def run_cell(plan: Plan, run: str, store: Store, launch: Launch = run_locally) -> Evaluation:
    """Train and evaluate one run of a study, and write its report; of the study's own reference compute the features, too.

    ConfigError where the run is none of the study's, or the dataset has changed since it was planned; else as the steps.
    """
    check_dataset(plan, store)
    if plan.weak is not None and run == plan.weak.name:
        return make_weak_reference(plan, plan.weak, store, launch)
    config = plan.training(plan.cell(run))
    train(config, store, launch=launch)
    found = evaluate(plan.evaluation(run), store)
    value = found.metric(plan.study.measure)
    if config.keep_checkpoint_every:
        for step in curve_steps(plan, run, store):
            evaluate_checkpoint(plan.evaluation(run), step, store)
    if store.head(layout.report(run)) is None:
        shown = {"runs": run, "dataset": plan.dataset, "split": plan.evaluate.label, "gallery": 0}
        write_report(ReportConfig.parse(shown), store)
    get_logger().info("study_cell_done", study=plan.name, run=run, measure=plan.study.measure, value=value)
    return found


def curve_steps(plan: Plan, run: str, store: Store) -> list[int]:
    """Steps of the checkpoints on the way to the finished model that a run has kept for good."""
    config = plan.training(plan.cell(run))
    kept = config.keep_checkpoint_every
    on_the_way = [step for step in list_checkpoints(run, store) if kept and step % kept == 0 and step < config.steps]
    return on_the_way[: plan.study.curve_points]  # one more is kept where the steps do not divide, next to the end


def make_weak_reference(plan: Plan, weak: WeakReference, store: Store, launch: Launch) -> Evaluation:
    """Train the study's own reference and compute its features; return its evaluation."""
    train(weak.training(plan.train), store, launch=launch)
    compute_reference(weak.features(plan.dataset), store)
    return evaluate(plan.evaluation(weak.name), store)
