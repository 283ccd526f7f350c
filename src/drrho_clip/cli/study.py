"""The commands `study ...`: many runs that are compared, one after the other on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drrho_clip.cli.options import ConfigOption, DatasetOption, SetOption, StoreOption, resolve
from drrho_clip.cli.show import show

if TYPE_CHECKING:
    from drrho_clip.storage import Store
    from drrho_clip.studies.plan import Plan
    from drrho_clip.studies.results import StudyResult

NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the study; DATASET-KIND.")]
MethodsOption = Annotated[str | None, typer.Option(help="Methods to compare, separated by commas.")]
BaselineOption = Annotated[str | None, typer.Option(help="Which of them the others are compared with.")]
ReferencesOption = Annotated[str | None, typer.Option(help="Names of references' features, separated by commas.")]
SeedsOption = Annotated[str | None, typer.Option(help="Seeds, separated by commas: a run of each method for every seed.")]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Processes of each training on this machine, one per GPU.")]


def make_group() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(
        name="study",
        help="Compare methods over seeds, shares of the data, sizes, or a weak reference: a table, and a report with claims.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in (comparison, data_efficiency, weak_to_strong, scaling):
        summary = (command.__doc__ or "").split("\n")[0].split(":")[0]
        group.command(command.__name__.replace("_", "-"), short_help=summary)(command)
    return group


def comparison(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    name: NameOption = None,
    methods: MethodsOption = None,
    baseline: BaselineOption = None,
    references: ReferencesOption = None,
    seeds: SeedsOption = None,
    processes: ProcessesOption = 1,
    assignments: SetOption = None,
) -> None:
    """Compare methods on one dataset: every method with every seed, and its difference to the baseline.

    What is done is found, so that it can be stopped and started again.

    \b
    Examples:
      drrho study comparison --config my.yaml
      drrho study comparison --config my.yaml --methods fastclip,drrho --seeds 0,1,2,3,4
      drrho study comparison --config my.yaml --set settings=openclip.temperature=0.2,drrho.temperature=0.1
    """
    flags = _flags(store, dataset, name, methods, baseline, references, seeds)
    _run("comparison", config, assignments, flags, processes)


def data_efficiency(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    name: NameOption = None,
    methods: MethodsOption = None,
    baseline: BaselineOption = None,
    references: ReferencesOption = None,
    seeds: SeedsOption = None,
    fractions: Annotated[str | None, typer.Option(help="Shares of the data, separated by commas; 1 among them.")] = None,
    processes: ProcessesOption = 1,
    assignments: SetOption = None,
) -> None:
    """Find how much less data a method needs: every method on shares of the data, at equal samples seen.

    \b
    Examples:
      drrho study data-efficiency --config my.yaml
      drrho study data-efficiency --config my.yaml --methods fastclip,drrho --fractions 0.5,1
    """
    flags = _flags(store, dataset, name, methods, baseline, references, seeds)
    _run("data_efficiency", config, assignments, {**flags, "study.fractions": fractions}, processes)


def weak_to_strong(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    name: NameOption = None,
    methods: MethodsOption = None,
    baseline: BaselineOption = None,
    references: ReferencesOption = None,
    seeds: SeedsOption = None,
    weak: Annotated[str | None, typer.Option(help="Architecture of the reference, smaller than the target's.")] = None,
    processes: ProcessesOption = 1,
    assignments: SetOption = None,
) -> None:
    """See whether a weak reference makes a stronger model: smaller than the target, and trained on less.

    \b
    Examples:
      drrho study weak-to-strong --config my.yaml --weak drrho-tiny
      drrho study weak-to-strong --config my.yaml --references vit-b-32-openai
    """
    flags = _flags(store, dataset, name, methods, baseline, references, seeds)
    _run("weak_to_strong", config, assignments, {**flags, "study.weak_architecture": weak}, processes)


def scaling(
    config: ConfigOption = None,
    store: StoreOption = None,
    dataset: DatasetOption = None,
    name: NameOption = None,
    methods: MethodsOption = None,
    baseline: BaselineOption = None,
    references: ReferencesOption = None,
    seeds: SeedsOption = None,
    architectures: Annotated[str | None, typer.Option(help="Model sizes, separated by commas.")] = None,
    budgets: Annotated[str | None, typer.Option(help="Samples seen, separated by commas.")] = None,
    processes: ProcessesOption = 1,
    assignments: SetOption = None,
) -> None:
    """Fit a scaling law per method: every method at several model sizes and numbers of samples seen.

    \b
    Examples:
      drrho study scaling --config my.yaml --architectures drrho-tiny,drrho-small --budgets 25600,51200,102400
      drrho study scaling --config my.yaml --budgets 1e8,4e8,16e8 --set predict=1e12
    """
    flags = _flags(store, dataset, name, methods, baseline, references, seeds)
    sizes = {"study.architectures": architectures, "study.budgets": budgets}
    _run("scaling", config, assignments, {**flags, **sizes}, processes)


def _flags(
    store: str | None,
    dataset: str | None,
    name: str | None,
    methods: str | None,
    baseline: str | None,
    references: str | None,
    seeds: str | None,
) -> dict[str, Any]:
    given = {"name": name, "methods": methods, "baseline": baseline, "references": references, "seeds": seeds}
    shared = {"store": store, "dataset": dataset, "train.method": "openclip"}  # no run is of this method: each has its own
    return {**shared, **{f"study.{key}": value for key, value in given.items()}}


def _run(kind: str, config: Path | None, assignments: list[str] | None, flags: dict[str, Any], processes: int) -> None:
    settings = resolve(config, assignments, flags, section="study")
    from drrho_clip.evaluation import Evaluation
    from drrho_clip.storage import open_store
    from drrho_clip.studies.matrix import Cell
    from drrho_clip.studies.plan import plan_study
    from drrho_clip.studies.run import run_study
    from drrho_clip.training.launch import run_locally

    opened = open_store(settings.store)
    plan = plan_study(kind, settings.study, settings.train, settings.evaluate, opened)
    total = len(plan.cells)
    order = {cell.run: number for number, cell in enumerate(plan.cells, start=1)}

    def told(cell: Cell, found: Evaluation) -> None:
        show(f"[{order[cell.run]}/{total}] {cell.run}", {plan.study.measure: found.metric(plan.study.measure)})

    result = run_study(plan, opened, lambda command: run_locally(command, processes=processes), told)
    _show(plan, result, opened)


def _show(plan: Plan, result: StudyResult, store: Store) -> None:
    from drrho_clip.storage import layout
    from drrho_clip.studies.claims import claims
    from drrho_clip.studies.table import render_study_table

    files = {ending: store.uri_of(layout.study_result(plan.name, ending)) for ending in ("html", "csv", "json")}
    if sys.stdout.isatty():
        print(f"\n{render_study_table(result)}\n")
        for claim in claims(result):
            print(claim)
        print()
    show(f"study {plan.name}", {"kind": plan.kind, "runs": len(plan.cells), "claims": list(claims(result)), **files})
