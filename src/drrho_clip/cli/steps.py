"""One command per step of the library. The work is imported inside, so that `--help` stays fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drrho_clip.cli.options import ConfigOption, DatasetOption, RunOption, SetOption, StoreOption, resolve
from drrho_clip.cli.show import show
from drrho_clip.errors import ConfigError

if TYPE_CHECKING:
    from drrho_clip.config import RunConfig


def ingest(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    source: Annotated[
        str | None, typer.Option(help="Kind of source: folder, shards, table, openmoji, scenes or curated.")
    ] = None,
    path: Annotated[str | None, typer.Option(help="The folder, tars, table or (curated) run.")] = None,
    samples: Annotated[int | None, typer.Option(help="At most this many samples; 0 = all.")] = None,
    retry_failed: Annotated[
        bool | None, typer.Option("--retry-failed", help="Of URLs that failed, fetch those that may still come.")
    ] = None,
    assignments: SetOption = None,
) -> None:
    """Bring image-text data into the store as shards with a manifest; adds only what is new.

    \b
    Examples:
      drrho ingest --store ./store --dataset pets --source folder --path ~/pets
      drrho ingest --store s3://bucket/clip --dataset emoji --source openmoji --set caption_noise=0.3
      drrho ingest --config my.yaml
      drrho ingest --config my.yaml --retry-failed
      drrho ingest --config my.yaml --set groups=4 --set group=1
    """
    flags = {
        "store": store,
        "dataset": dataset,
        "ingest.source": source,
        "ingest.path": path,
        "ingest.samples": samples,
        "ingest.retry_failed": retry_failed,
    }
    _bring_in(resolve(config, assignments, flags, section="ingest"))


def _bring_in(settings: RunConfig) -> None:
    from drrho_clip.data.ingest import ingest as bring_in
    from drrho_clip.data.ingest import ingest_group
    from drrho_clip.storage import layout, open_store

    opened = open_store(settings.store)
    if group := settings.ingest.group:
        done = ingest_group(settings.ingest, opened)
        show(f"group {group}", {"pieces": done.pieces, "rows": done.rows, "samples": done.samples})
        return
    manifest = bring_in(settings.ingest, opened)
    failed = {reason: failure.count for reason, failure in manifest.failed.items()}
    show(
        f"dataset {manifest.name}",
        {
            "samples": manifest.total,
            "splits": manifest.splits,
            "classes": len(manifest.classnames),
            "not_usable": failed,
            "duplicates": manifest.duplicates,
            "version": manifest.version,
            "id": manifest.id,
            "uri": opened.uri_of(layout.dataset(manifest.name)),
        },
    )


def curate(
    run: Annotated[str, typer.Option("--run", "-r", help="Run whose weights say what is kept.")],
    into: Annotated[str, typer.Option(help="Name of the new dataset.")],
    keep: Annotated[float, typer.Option(help="Share of the training samples to keep, those of the largest weight.")] = 0.5,
    store: StoreOption = None,
    assignments: SetOption = None,
) -> None:
    """Make a dataset of the samples that a run weighed most; the other splits stay whole.

    \b
    Examples:
      drrho curate --store ./store --run first --keep 0.7 --into pets-curated
      drrho curate --store s3://bucket/clip --run first --into pets-half
    """
    flags = {"store": store, "dataset": into, "ingest.source": "curated", "ingest.path": run, "ingest.keep": keep}
    _bring_in(resolve(None, assignments, flags, section="ingest"))


def reference(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="ARCHITECTURE/tag, ARCHITECTURE:weights file, or run:NAME.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the features; made from the model.")] = None,
    assignments: SetOption = None,
) -> None:
    """Compute a reference model's features and losses of every sample of a dataset; finds what is done.

    \b
    Examples:
      drrho reference --store ./store --dataset pets --model ViT-B-32/openai
      drrho reference --store ./store --dataset pets --model run:first --name first
      drrho reference --config my.yaml
    """
    flags = {"store": store, "dataset": dataset, "reference.model": model, "reference.name": name}
    settings = resolve(config, assignments, flags, section="reference")
    if settings.reference is None:
        raise ConfigError("No reference model is set", fix="Give --model, or set reference.model in the config.")
    from drrho_clip.reference import compute_reference
    from drrho_clip.storage import layout, open_store

    opened = open_store(settings.store)
    found = compute_reference(settings.reference, opened)
    show(
        f"reference {settings.reference.reference_id}",
        {
            "dataset": found.dataset,
            "dataset_version": found.dataset_version,
            "model": found.identity.spec,
            "samples": sum(shard.count for shard in found.shards),
            "uri": opened.uri_of(layout.reference(found.dataset, settings.reference.reference_id)),
        },
    )


def train(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    run: RunOption = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="openclip, fastclip, drrho, ...")] = None,
    architecture: Annotated[str | None, typer.Option(help="An open_clip architecture, or one of ours.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch size.")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples seen in all.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU.")] = 1,
    assignments: SetOption = None,
) -> None:
    """Train a model to its end, from its newest checkpoint where there is one.

    \b
    Examples:
      drrho train --config my.yaml
      drrho train --store ./store --dataset pets --run first --method fastclip --architecture drrho-small
      drrho train --config my.yaml --processes 8 --set train.learning_rate=5e-4
    """
    flags = {
        "store": store,
        "dataset": dataset,
        "run": run,
        "train.method": method,
        "train.architecture": architecture,
        "train.batch_size": batch_size,
        "train.samples": samples,
    }
    settings = resolve(config, assignments, flags, section="train")
    from drrho_clip import training
    from drrho_clip.storage import layout, open_store
    from drrho_clip.training.launch import run_locally

    opened = open_store(settings.store)
    done = training.train(settings.train, opened, launch=lambda command: run_locally(command, processes=processes))
    show(
        f"run {done.run}",
        {
            "method": done.method,
            "architecture": done.architecture,
            "samples_seen": done.samples_seen,
            "steps": done.steps,
            "samples_per_second": done.samples_per_second,
            "seconds": done.seconds,
            "temperature": done.temperature,
            "model": opened.uri_of(layout.export(done.run)),
        },
    )


def evaluate(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    run: RunOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another model than the run's, e.g. ViT-B-32/openai.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="A reference instead, by the name of its features.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    suite: Annotated[str | None, typer.Option(help="Instead of the dataset: datacomp, or a YAML list of tasks.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder or URI with the suite's published datasets.")] = None,
    checkpoints: Annotated[str | None, typer.Option(help="For a suite: all, last, or the newest N of the run.")] = None,
    assignments: SetOption = None,
) -> None:
    """Measure zero-shot classification and image-text retrieval of a run, or of any other model.

    With --suite on many published datasets instead of one's own; task by task, and finds what is done.

    \b
    Examples:
      drrho evaluate --config my.yaml
      drrho evaluate --store ./store --dataset pets --run first --split heldout
      drrho evaluate --store ./store --dataset pets --model ViT-B-32/openai
      drrho evaluate --store ./store --run first --suite datacomp --data s3://bucket/datacomp --checkpoints all
    """
    flags = {
        "store": store,
        "dataset": dataset,
        "evaluate.run": run,
        "evaluate.model": model,
        "evaluate.reference": reference,
        "evaluate.split": split,
        "evaluate.suite": suite,
        "evaluate.suite_data": data,
        "evaluate.checkpoints": checkpoints,
    }
    settings = resolve(config, assignments, flags, section="evaluate")
    if settings.evaluate.suite:
        _evaluate_suite(settings)
        return
    from drrho_clip.evaluation import evaluate as measure
    from drrho_clip.storage import open_store

    result = measure(settings.evaluate, open_store(settings.store))
    show(f"evaluation of {result.kind} {result.name} on {result.dataset} {settings.evaluate.label}", result.scalars())


def _evaluate_suite(settings: RunConfig) -> None:
    from drrho_clip.evaluation.suite import evaluate_suite
    from drrho_clip.report.suite import write_suite_plot
    from drrho_clip.storage import open_store

    opened = open_store(settings.store)
    result, key = evaluate_suite(settings.evaluate, opened)
    files = [f"{key}.json", f"{key}.csv", *write_suite_plot(result, key, opened)]
    for model in result.models:
        scores = {task.task: task.value for task in model.tasks}
        seen = {} if model.samples_seen is None else {"samples_seen": model.samples_seen}
        show(f"{result.suite} of {result.kind} {result.name} {model.label}", {**seen, **scores, result.mean_name: model.mean})
    show("suite " + result.suite, {"missing": ", ".join(result.missing), "files": ", ".join(map(opened.uri_of, files))})


def report(
    config: ConfigOption = None,
    store: StoreOption = None,
    runs: Annotated[str | None, typer.Option(help="Names of the runs, separated by commas.")] = None,
    comparison: Annotated[str | None, typer.Option(help="Name of the comparison, for several runs.")] = None,
    assignments: SetOption = None,
) -> None:
    """Write one self-contained HTML page about a run, or about several side by side.

    \b
    Examples:
      drrho report --config my.yaml
      drrho report --store ./store --runs openclip,fastclip,drrho --comparison methods
    """
    flags = {"store": store, "report.runs": runs, "report.comparison": comparison}
    settings = resolve(config, assignments, flags, section="report")
    from drrho_clip.report import write_report
    from drrho_clip.storage import open_store

    show("report", {"uri": write_report(settings.report, open_store(settings.store))})
