"""The step `train`: finds a finished run, or checks, records and launches it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import yaml

from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.order import Indices, SampleOrder, draw
from drrho_clip.errors import ConfigError, DataError, DrrhoError, ObjectChanged, StorageError, TrainingError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, layout
from drrho_clip.training.config import OWN, TrainConfig
from drrho_clip.training.launch import run_locally
from drrho_clip.training.summary import TrainSummary

Launch = Callable[[list[str]], None]
"""Runs the training command (the arguments of `python -m drrho_clip.training`) on some processes; raises when it fails."""

ADVICE_PAIRS = 4096
FREE = {
    "gradient_checkpointing",
    "workers",
    "cache_path",
    "cache_gib",
    "checkpoint_steps",
    "keep_checkpoints",
    "keep_checkpoint_every",
    "log_steps",
    "collective_timeout",
    "metrics_port",
    "u_home",
    "u_path",
}
"""Settings that may differ when a run goes on: they change nothing of its result."""


def train(config: TrainConfig, store: Store, launch: Launch = run_locally) -> TrainSummary:
    """Train a run to its end, from its newest checkpoint where there is one; a finished run is returned as it is.

    ConfigError or DataError before anything is written where the settings cannot work; TrainingError where training stops.
    """
    recorded = _recorded(config, store)
    done = find_summary(config.run, store)
    if done is not None:
        get_logger().info("train_found", run=config.run, samples_seen=done.samples_seen)
        return done
    if recorded is None:
        manifest = load_manifest(store, config.dataset, config.dataset_version or None)
        check_settings(config, manifest, store)
        _log_start(config, manifest)
        config = with_advice(config, manifest, store)
        recorded = {**config.model_dump(), "dataset_version": manifest.version}
        _record(config.run, recorded, store)
    with _failure_told(config.run, store):
        launch(["--store", store.uri, "--run", config.run, *_free_arguments(config)])
        finished = find_summary(config.run, store)
        if finished is None:
            raise TrainingError(
                "Training ended without a summary", where=store.uri_of(layout.run(config.run)), fix="See its log."
            )
    return finished


@contextmanager
def _failure_told(run: str, store: Store) -> Iterator[None]:
    """Leave the reason why an attempt ended in the store, for whoever watches it from elsewhere, until the next attempt."""
    store.delete(layout.run_failure(run))
    try:
        yield
    except DrrhoError as error:
        reason = {"what": error.what, "where": error.where, "fix": error.fix}
        with suppress(StorageError):  # it may be the reason
            store.write(layout.run_failure(run), json.dumps(reason).encode())
        raise


def find_summary(run: str, store: Store) -> TrainSummary | None:
    """The summary of a finished run, or None."""
    if store.head(layout.run_summary(run)) is None:
        return None
    return TrainSummary.model_validate_json(store.read(layout.run_summary(run)))


def read_config(run: str, store: Store, free: dict[str, Any] | None = None) -> TrainConfig:
    """The config that a run was started with, its dataset version filled in; `free` replaces settings of FREE."""
    where = store.uri_of(layout.run_config(run))
    return TrainConfig.parse({**yaml.safe_load(store.read(layout.run_config(run))), **(free or {})}, where=where)


def _recorded(config: TrainConfig, store: Store) -> dict[str, object] | None:
    """The recorded settings of this run, None where it is new; TrainingError where they are others."""
    if store.head(layout.run_config(config.run)) is None:
        return None
    recorded = read_config(config.run, store).model_dump()
    wanted = config.model_dump()
    for key in [*config.automatic, *(["dataset_version"] if config.dataset_version == 0 else [])]:
        wanted[key] = recorded[key]
    differing = [
        f"{key}: {recorded[key]!r} there, {wanted[key]!r} here"
        for key in wanted
        if wanted[key] != recorded[key] and key not in FREE
    ]
    if differing:
        raise TrainingError(
            f"Run '{config.run}' exists with other settings ({'; '.join(differing)})",
            where=store.uri_of(layout.run_config(config.run)),
            fix="Choose another run name, or the same settings to go on with it.",
        )
    return recorded


def check_settings(config: TrainConfig, manifest: Manifest, store: Store, *, look_for_reference: bool = True) -> None:
    """Everything that can be known to fail before a process is started; ConfigError or DataError.

    A reference that is still to be computed is not looked for.
    """
    from drrho_clip.models import check_architecture

    check_architecture(config.architecture)
    available = round(manifest.splits.get(config.split, 0) * config.data_fraction)
    if config.batch_size <= available < config.read_size:
        raise ConfigError(
            f"A batch of {config.batch_size} is chosen from {config.read_size} samples, and the split has {available}",
            where=f"run {config.run}",
            fix="Lower batch_size or filter_ratio.",
        )
    sample_order(config, manifest)
    if config.steps < 1:
        raise ConfigError(
            f"{config.samples} samples are less than one batch of {config.batch_size}: nothing to train",
            where=f"run {config.run}",
            fix="Raise samples or lower batch_size.",
        )
    if config.warmup_steps >= config.steps:
        raise ConfigError(
            f"The warm-up of {config.warmup_steps} steps is as long as the run of {config.steps}",
            where=f"run {config.run}",
            fix="Lower warmup_steps or raise samples.",
        )
    features = layout.reference_manifest(config.dataset, config.reference) if config.reference else ""
    if features and look_for_reference and store.head(features) is None:
        raise DataError(
            f"No reference '{config.reference}' for this dataset",
            where=store.uri_of(features),
            fix="Run `drrho reference` first, or give the name that it stored its features under.",
        )
    if config.initial:
        _check_initial(config, store)


def _log_start(config: TrainConfig, manifest: Manifest) -> None:
    order = sample_order(config, manifest)
    get_logger().info(
        "train_starts",
        run=config.run,
        method=config.method,
        steps=config.steps,
        steps_per_epoch=order.steps_per_epoch,
        dropped_per_epoch=order.samples - order.steps_per_epoch * config.read_size,
    )


def _check_initial(config: TrainConfig, store: Store) -> None:
    """The run to go on from must be finished and of the same architecture."""
    where = store.uri_of(layout.run(config.initial_run))
    summary = find_summary(config.initial_run, store)
    if summary is None:
        raise ConfigError(f"There is no finished run '{config.initial_run}' to go on from", where=where, fix="Check `initial`.")
    if summary.architecture != config.architecture:
        raise ConfigError(
            f"Run '{config.initial_run}' is a {summary.architecture}, and cannot go on as a {config.architecture}",
            where=where,
            fix=f"Set architecture to {summary.architecture}.",
        )


def with_advice(config: TrainConfig, manifest: Manifest, store: Store) -> TrainConfig:
    """The config with `temperature` and `eps` chosen by the reference's features where they are automatic."""
    if not config.automatic:
        return config
    from drrho_clip.data.features import FeatureReader
    from drrho_clip.method.advice import recommend

    pairs = random_pairs(manifest, config.split, config.batch_size)
    features = FeatureReader(store, config.dataset, config.reference, manifest).get(pairs)
    given = None if "temperature" in config.automatic else config.objective().temperature
    advice = recommend(features, config.batch_size, temperature=given)
    # eps weighs losses that are steered; the others have their own
    names = [name for name in config.automatic if name != "eps" or config.objective().steered]
    chosen = {name: float(f"{getattr(advice, name):.3g}") for name in names}
    get_logger().info(
        "settings_chosen",
        run=config.run,
        **chosen,
        why=[advice.why(name, config.batch_size) for name in names],
        kept=[name for name in config.automatic if name not in names],
        reference=config.reference,
        pairs=len(pairs),
        effective_negatives=float(f"{advice.effective_negatives:.3g}"),
        dropped=float(f"{advice.dropped:.3g}"),
    )
    return config.model_copy(update=dict.fromkeys(config.automatic, OWN) | chosen)


def random_pairs(manifest: Manifest, split: str, batch_size: int) -> Indices:
    """Indices of some samples of a split in random order, always the same: as many as a batch, or 4,096 if that is more."""
    drawn = draw(manifest.split(split), max(ADVICE_PAIRS, batch_size), seed=0)
    return np.random.default_rng(0).permutation(drawn)


def sample_order(config: TrainConfig, manifest: Manifest) -> SampleOrder:
    """The order in which a run reads its samples."""
    return SampleOrder(
        manifest.split(config.split),
        seed=config.seed,
        batch_size=config.read_size,
        lanes=config.lanes,
        fraction=config.data_fraction,
    )


def _record(run: str, settings: dict[str, object], store: Store) -> None:
    try:
        store.write(layout.run_config(run), yaml.safe_dump(settings, sort_keys=False).encode(), if_absent=True)
    except ObjectChanged:
        raise TrainingError(f"Another process started run '{run}' just now", where=store.uri_of(layout.run(run))) from None


def free_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Those settings of FREE that the arguments of a training command give, which are names and values in turn."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    return {key: options[flag] for key in FREE if (flag := _flag(key)) in options}


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _free_arguments(config: TrainConfig) -> list[str]:
    return [part for key in sorted(FREE) for part in (_flag(key), str(getattr(config, key)))]
