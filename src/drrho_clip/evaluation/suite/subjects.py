"""The models that a suite is evaluated with: a finished run, its checkpoints, or a model by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from drrho_clip.evaluation.config import EvaluateConfig
from drrho_clip.models import checkpoint_weights, exported_sha256, list_checkpoints, load_checkpoint, load_model

if TYPE_CHECKING:
    from drrho_clip.models import Encoder
    from drrho_clip.storage import Store

FINAL = "final"


@dataclass(frozen=True)
class Subject:
    """One model: what it is called beside others of its run, the samples it has seen, and how it is loaded."""

    label: str
    samples_seen: int | None
    weights_sha256: str
    load: Callable[[], Encoder]


def find_subjects(config: EvaluateConfig, store: Store) -> list[Subject]:
    """The models that `config` names, in the order of training. Raises ModelError where there is none."""
    suffix = "" if config.precision == "fp32" else f"-{config.precision}"
    if config.checkpoints:
        steps = list_checkpoints(config.name, store)
        wanted = {"all": len(steps), "last": 1}.get(config.checkpoints) or int(config.checkpoints)
        found = [checkpoint_weights(config.name, step, store) for step in steps[-wanted:]]
        return [
            Subject(
                f"step-{checkpoint.step:08d}{suffix}",
                checkpoint.samples_seen,
                checkpoint.sha256,
                partial(load_checkpoint, checkpoint, store, precision=config.precision),
            )
            for checkpoint in found
        ]
    load = partial(load_model, config.model or f"run:{config.run}", store, precision=config.precision)
    if config.kind == "run":
        return [Subject(FINAL + suffix, None, exported_sha256(config.name, store), load)]
    encoder = load()  # only its weights can tell which they are
    return [Subject(FINAL + suffix, None, encoder.identity.weights_sha256, lambda: encoder)]
