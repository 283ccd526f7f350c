"""The work of a suite: each dataset is read once for all its tasks and for several models together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drrho_clip.data.images import BadImage, decode_image
from drrho_clip.errors import DataError, ModelError
from drrho_clip.evaluation.config import EvaluateConfig
from drrho_clip.evaluation.suite.associations import Associations
from drrho_clip.evaluation.suite.readings import AssociationReading, Item, Measured, SampleReading
from drrho_clip.evaluation.suite.results import TaskResult
from drrho_clip.evaluation.suite.step import Job
from drrho_clip.models import Encoder, encode_images
from drrho_clip.observe import get_logger, progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from drrho_clip.storage import Store

MODELS_AT_ONCE = 8
"""Models in memory together. Checkpoints of a run share its preprocessing: each picture is decoded once for all of them."""

Reading = SampleReading | AssociationReading


def compute(jobs: Sequence[Job], config: EvaluateConfig, store: Store) -> dict[str, TaskResult]:
    """Measure every job and return the results by key; each is in the store before the next dataset is read."""
    results: dict[str, TaskResult] = {}
    subjects = list({job.subject.label: job.subject for job in jobs}.values())
    for start in range(0, len(subjects), MODELS_AT_ONCE):
        encoders = {subject.label: subject.load() for subject in subjects[start : start + MODELS_AT_ONCE]}
        mine = [job for job in jobs if job.subject.label in encoders]
        for folder in dict.fromkeys(job.task.folder for job in mine):
            results |= _measure([job for job in mine if job.task.folder == folder], encoders, config, store)
        del encoders  # before the next ones are loaded
    return results


def _measure(jobs: Sequence[Job], encoders: Mapping[str, Encoder], config: EvaluateConfig, store: Store) -> dict[str, TaskResult]:
    """Read one dataset, and score every model on each of its tasks."""
    dataset, tasks = jobs[0].dataset, list({job.task.name: job.task for job in jobs}.values())
    reading: Reading = (
        AssociationReading(dataset, tasks) if isinstance(dataset, Associations) else SampleReading(dataset, tasks, store)
    )
    labels = list(dict.fromkeys(job.subject.label for job in jobs))
    what = f"evaluate {config.name} on {', '.join(task.name for task in tasks)}"
    stream: Iterator[Item] = reading.items()
    items = progress(stream, what=what, total=tasks[0].size, unit="pictures")
    encoded = _encode([encoders[label] for label in labels], items, config)
    reading.check_sizes()
    features = dict(zip(labels, encoded, strict=True))
    results: dict[str, TaskResult] = {}
    measured: dict[tuple[object, ...], Measured] = {}
    for job in jobs:
        label, task = job.subject.label, job.task
        asked = (label, task.kind, task.group, task.ignore_groups, task.min_candidates)
        if asked not in measured:
            measured[asked] = reading.score(task, features[label], encoders[label])
        results[job.key] = _result(job, measured[asked])
        store.write(job.key, (results[job.key].model_dump_json(indent=1) + "\n").encode())
        get_logger().info("suite_task_done", task=task.name, model=label, metric=task.metric, value=results[job.key].value)
    return results


def _encode(encoders: Sequence[Encoder], items: Iterable[Item], config: EvaluateConfig) -> list[Tensor]:
    """Features of all pictures, one tensor [n, dim] for each encoder."""
    batches = list(encode_images(encoders, items, _decode, batch_size=config.batch_size, threads=config.decode_threads))
    features = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    if not all(bool(part.isfinite().all()) for part in features):
        raise ModelError(
            "The model gives features that are not finite", where=config.name, fix="Train it again, or check its weights."
        )
    return features


def _decode(item: Item) -> Image:
    try:
        return decode_image(item.load())
    except BadImage as error:
        raise DataError(
            f"The picture cannot be decoded: {error.detail}", where=item.where, fix="Fetch the dataset again."
        ) from None


def _result(job: Job, measured: Measured) -> TaskResult:
    task = job.task
    if task.metric not in measured.scores:
        raise DataError(
            f"Task '{task.name}' says nothing by {task.metric}: with so few to choose from every answer is right",
            where=job.dataset.uri,
            fix=f"Choose one of {', '.join(measured.scores)}." if measured.scores else "Leave the task out.",
        )
    return TaskResult(
        task=task.name,
        metric=task.metric,
        value=measured.scores[task.metric],
        scores=measured.scores,
        groups=measured.groups,
        samples=measured.samples,
        classes=measured.classes,
        captions=measured.captions,
        dataset=job.dataset.uri,
        definition=measured.definition,
        fingerprint=job.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
