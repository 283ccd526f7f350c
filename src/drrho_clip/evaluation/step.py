"""Find the evaluation of a model, or make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drrho_clip.data.manifest import Manifest, Shard, dataset_id, load_manifest
from drrho_clip.data.reference_manifest import load_reference_manifest
from drrho_clip.errors import DataError, ObjectChanged
from drrho_clip.evaluation.classes import classes_id
from drrho_clip.evaluation.config import EvaluateConfig, safe_name
from drrho_clip.evaluation.results import Evaluation
from drrho_clip.models import CheckpointWeights, checkpoint_weights, exported_sha256
from drrho_clip.observe import get_logger, pushed
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store


@dataclass(frozen=True)
class Task:
    """What is asked for: the dataset version, the shards to read, and where the result goes."""

    config: EvaluateConfig
    manifest: Manifest
    shards: tuple[Shard, ...]
    key: str
    weights_sha256: str | None  # None where only loading the model can tell
    classes_id: str
    checkpoint: CheckpointWeights | None = None  # instead of the finished model

    @property
    def shards_id(self) -> str:
        """Identity of the data that is read."""
        return dataset_id(self.shards)


def evaluate(config: EvaluateConfig, store: Store) -> Evaluation:
    """Evaluate a run, a model or a reference on one split of the newest version of a dataset; find what is done.

    A result is found while the model's weights, the shards that were read and the classes are the same; it is replaced where
    one of them is not, for instance because the dataset has grown. Raises DataError and ModelError for a dataset, split or
    model that is not there, and ModelError where the model behind a reference is no longer the one its features come from.
    """
    with pushed("evaluate") as record:
        result = _find_or_compute(config, store)
        record["stage_samples"] = result.samples
        if result.zero_shot is not None:
            record["zero_shot_accuracy"] = result.zero_shot.top[1].value
        return result


def evaluate_checkpoint(config: EvaluateConfig, step: int, store: Store) -> tuple[int, Evaluation]:
    """The same of a checkpoint that the run has kept, and the samples that it had seen; ModelError where it is not there."""
    checkpoint = checkpoint_weights(config.name, step, store)
    return checkpoint.samples_seen, _find_or_compute(config, store, checkpoint)


def _find_or_compute(config: EvaluateConfig, store: Store, checkpoint: CheckpointWeights | None = None) -> Evaluation:
    manifest = load_manifest(store, config.dataset)
    queries = manifest.split(config.split)
    shards = queries if config.candidates == "split" else manifest.shards
    key, weights = _key(config), None
    if checkpoint is not None:
        key = layout.checkpoint_evaluation(config.name, checkpoint.step, config.dataset, config.label)
        weights = checkpoint.sha256
    classes = classes_id(config.classnames, manifest)
    task = Task(config, manifest, shards, key, weights or _weights_sha256(config, store), classes, checkpoint)
    info = store.head(task.key)
    found = read_evaluation(store, task.key) if info else None
    if found is not None and _is_same(found, task):
        get_logger().info("evaluation_found", what=config.name, dataset=config.dataset, split=config.split)
        return found
    from drrho_clip.evaluation.work import compute

    result = compute(task, store)
    data = (result.model_dump_json(indent=1) + "\n").encode()
    try:
        store.write(task.key, data, if_absent=info is None, if_match=info.etag if info else None)
    except ObjectChanged:  # another process was faster with the same evaluation
        return read_evaluation(store, task.key)
    get_logger().info("evaluation_done", what=config.name, dataset=config.dataset, split=config.split, **result.scalars())
    return result


def read_evaluation(store: Store, key: str) -> Evaluation:
    """Read a result; DataError where it cannot be understood."""
    try:
        return Evaluation.model_validate_json(store.read(key))
    except ValueError as error:
        lines = str(error).splitlines()
        raise DataError(
            "The evaluation cannot be read: " + " ".join(line.strip() for line in lines[1:3] or lines),
            where=store.uri_of(key),
            fix="Delete it and run `drrho evaluate` again.",
        ) from None


def _key(config: EvaluateConfig) -> str:
    if config.kind == "run":
        return layout.evaluation(config.name, config.dataset, config.label)
    if config.kind == "model":
        return layout.model_evaluation(safe_name(config.name), config.dataset, config.label)
    return layout.reference_evaluation(config.dataset, config.name, config.label)


def _weights_sha256(config: EvaluateConfig, store: Store) -> str | None:
    if config.kind == "run":
        return exported_sha256(config.name, store)
    if config.kind == "model":
        return None
    return load_reference_manifest(store, config.dataset, config.name).identity.weights_sha256


def _is_same(found: Evaluation, task: Task) -> bool:
    config = task.config
    asked = (config.kind, config.name, task.shards_id, task.classes_id)
    if (found.kind, found.name, found.shards_id, found.classes_id) != asked:
        return False
    if config.kind != "reference" and found.model.get("precision") != config.precision:
        return False
    return task.weights_sha256 is None or task.weights_sha256 == found.model.get("weights_sha256")
