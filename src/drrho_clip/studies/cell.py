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
from drrho_clip.training import train
from drrho_clip.training.launch import run_locally
from drrho_clip.training.step import Launch

if TYPE_CHECKING:
    from drrho_clip.data.reference_manifest import ReferenceManifest
    from drrho_clip.storage import Store


def run_cell(plan: Plan, run: str, store: Store, launch: Launch = run_locally) -> Evaluation:
    """Train and evaluate one run of a study, and write its report.

    ConfigError where the run is none of the study's, or the dataset has changed since it was planned; else as the steps.
    """
    check_dataset(plan, store)
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
    return [step for step in list_checkpoints(run, store) if kept and step % kept == 0 and step < config.steps]


def make_weak_reference(plan: Plan, store: Store, launch: Launch = run_locally) -> ReferenceManifest | None:
    """Train the study's own reference and compute its features; None where it has none of its own."""
    if plan.weak is None:
        return None
    check_dataset(plan, store)
    train(plan.weak.training(plan.train), store, launch=launch)
    evaluate(plan.evaluation(plan.weak.name), store)
    return compute_reference(plan.weak.features(plan.dataset), store)
