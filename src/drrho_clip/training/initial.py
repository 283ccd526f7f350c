"""A new run that goes on from a finished one."""

from __future__ import annotations

from torch import nn

from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.errors import DrrhoError
from drrho_clip.method.objective import Objective
from drrho_clip.models import load_model
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.training.step import find_summary


def start_from(run: str, store: Store, model: nn.Module, objective: Objective, manifest: Manifest) -> None:
    """Give `model` the weights of a finished run, and `objective` its learnt temperature and what it knows of the samples' u.

    They come from its last checkpoint; where that is gone, the weights come from its export, and the rest starts anew.
    """
    parts: dict[str, nn.Module] = {"model": model}
    if objective.log_scale.requires_grad:
        parts["objective"] = objective
    known = _shared_samples(run, store, manifest)
    step, _ = Checkpoints(store, run, keep=1).restore(parts, objective.by_rows() if known else {})
    if not step:
        model.load_state_dict(load_model(f"run:{run}", store).model.state_dict())
    get_logger().info("initialised", initial=run, checkpoint=step, shared_samples=known, temperature=objective.temperature.item())


def _shared_samples(run: str, store: Store, manifest: Manifest) -> int:
    """How many of the first samples of `manifest` are the run's: a dataset only ever grows, but it may have been made anew."""
    summary = find_summary(run, store)
    if summary is None or summary.dataset != manifest.name:
        return 0
    try:
        before = load_manifest(store, summary.dataset, summary.dataset_version)
    except DrrhoError:
        return 0
    same = before.id == summary.dataset_id and manifest.shards[: len(before.shards)] == before.shards
    return before.total if same else 0
