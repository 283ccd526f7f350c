"""The models that a suite is evaluated with: a finished run, its checkpoints, or a model by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
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
    load: Callable[[], Encoder]
    known_sha256: str = ""  # "" where only loading can tell

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of its weights."""
        return self.known_sha256 or self.load().identity.weights_sha256


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
                partial(load_checkpoint, checkpoint, store, precision=config.precision),
                checkpoint.sha256,
            )
            for checkpoint in found
        ]
    load = partial(load_model, config.model or f"run:{config.run}", store, precision=config.precision)
    sha256 = exported_sha256(config.name, store) if config.kind == "run" else ""
    return [Subject(FINAL + suffix, None, load, sha256)]
