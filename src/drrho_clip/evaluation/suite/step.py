"""Find the results of a suite, task by task, and make those that are not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drrho_clip.errors import DataError, ObjectMissing
from drrho_clip.evaluation.config import EvaluateConfig, safe_name
from drrho_clip.evaluation.suite.associations import Associations, open_associations
from drrho_clip.evaluation.suite.config import Suite, SuiteTask, load_suite
from drrho_clip.evaluation.suite.published import TYPE, Published, open_published
from drrho_clip.evaluation.suite.results import ModelScores, SuiteResult, TaskResult
from drrho_clip.evaluation.suite.subjects import Subject, find_subjects
from drrho_clip.observe import get_logger
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

Dataset = Published | Associations


@dataclass(frozen=True)
class Job:
    """One task for one model: where its result goes, and the fingerprint that it will have."""

    task: SuiteTask
    dataset: Dataset
    subject: Subject
    key: str
    fingerprint: str


def evaluate_suite(config: EvaluateConfig, store: Store) -> tuple[SuiteResult, str]:
    """Evaluate a run, its checkpoints or a model on every task of a suite that has data; find what is done.

    Every task is kept as soon as it is measured, so that a second call goes on where the first ended. A result is found while
    task, data, weights and precision are the same. The whole is written as JSON and CSV, under the key that is returned with
    it. Raises ConfigError for a suite that cannot be understood, DataError for a dataset that is not as published or where no
    task has data, ModelError for a model that is not there.
    """
    suite = load_suite(config.suite)
    datasets = _open_all(suite, config.suite_data)
    subjects = find_subjects(config, store)
    identities = {folder: dataset.identity() for folder, dataset in datasets.items()}
    owner = layout.run(config.name) if config.kind == "run" else layout.model(safe_name(config.name))
    jobs = [
        Job(
            task,
            datasets[task.folder],
            subject,
            layout.suite_task(owner, suite.name, subject.label, safe_name(task.name)),
            _fingerprint(task, identities[task.folder], subject, config),
        )
        for subject in subjects
        for task in suite.tasks
        if task.folder in datasets
    ]
    found = {job.key: known for job in jobs if (known := _found(job, store))}
    open_jobs = [job for job in jobs if job.key not in found]
    get_logger().info("suite_planned", suite=suite.name, what=config.name, found=len(found), to_do=len(open_jobs))
    if open_jobs:
        from drrho_clip.evaluation.suite.work import compute

        found |= compute(open_jobs, config, store)
    result = _collect(suite, config, subjects, jobs, found)
    key = layout.suite_result(owner, suite.name, "checkpoints" if config.checkpoints else "final")
    store.write(f"{key}.json", (result.model_dump_json(indent=1) + "\n").encode())
    store.write(f"{key}.csv", result.to_csv().encode())
    last = result.models[-1]
    get_logger().info("suite_done", suite=suite.name, what=config.name, mean=last.mean, mean_name=result.mean_name)
    return result, key


def _open_all(suite: Suite, data: str) -> Mapping[str, Dataset]:
    """The datasets that are there, by folder, each looked at once: whatever is wrong with one is said before any work."""
    datasets: dict[str, Dataset] = {}
    for task in suite.tasks:
        known = datasets.get(task.folder)
        opened = known or _open(data, task)
        if opened is None:
            continue
        datasets[task.folder] = opened
        _check_kind(opened, task)
        if isinstance(opened, Published) and task.kind == "classification":
            opened.classes(duplicates=task.duplicate_classnames)
    if not datasets:
        first = suite.tasks[0]
        raise DataError(
            f"None of the {len(suite.tasks)} tasks of the suite '{suite.name}' has data there",
            where=data,
            fix=f"Put each dataset into a folder of its own: {first.folder}/test/*.tar for '{first.name}', and so on.",
        )
    return datasets


def _open(data: str, task: SuiteTask) -> Dataset | None:
    if task.kind == "association":
        return open_associations(data, task.folder)
    return open_published(data, task.folder)


def _check_kind(dataset: Dataset, task: SuiteTask) -> None:
    if dataset.type != task.kind:
        raise DataError(
            f"Task '{task.name}' is measured by {task.metric}, which is for {task.kind}; the dataset is for {dataset.type[:40]}",
            where=dataset.store.uri_of(TYPE),
            fix=f"Choose another metric, or correct {TYPE}: classification or retrieval.",
        )


def _fingerprint(task: SuiteTask, identity: str, subject: Subject, config: EvaluateConfig) -> str:
    facts = [task.model_dump(exclude={"name", "path"}), identity, subject.weights_sha256, config.precision]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _found(job: Job, store: Store) -> TaskResult | None:
    try:
        result = TaskResult.model_validate_json(store.read(job.key))
    except ObjectMissing:
        return None
    except ValueError as error:
        get_logger().warning("suite_result_unreadable", key=job.key, reason=str(error).splitlines()[0])
        return None
    return result if result.fingerprint == job.fingerprint else None


def _collect(
    suite: Suite, config: EvaluateConfig, subjects: list[Subject], jobs: list[Job], found: Mapping[str, TaskResult]
) -> SuiteResult:
    done = {job.task.name for job in jobs}
    missing = {task.name: f"no data at {task.folder}" for task in suite.tasks if task.name not in done}
    if missing:
        get_logger().warning("suite_tasks_missing", suite=suite.name, data=config.suite_data, tasks=list(missing))
    return SuiteResult(
        suite=suite.name,
        suite_tasks=len(suite.tasks),
        kind=config.kind,
        name=config.name,
        data=config.suite_data,
        models=tuple(
            ModelScores(
                label=subject.label,
                samples_seen=subject.samples_seen,
                weights_sha256=subject.weights_sha256,
                tasks=tuple(found[job.key] for job in jobs if job.subject is subject),
            )
            for subject in subjects
        ),
        missing=missing,
        mean_name=suite.mean_name(len(done)),
    )
