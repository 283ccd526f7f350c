"""`drrho pipeline submit` and the other commands that speak with a Kubeflow Pipelines server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drrho_clip.cli.options import ConfigOption, SetOption, StoreOption, resolve
from drrho_clip.cli.show import show
from drrho_clip.errors import ConfigError, nearest
from drrho_pipelines.server.options import (
    CachingOption,
    CommitOption,
    EveryOption,
    ImageOption,
    ParameterOption,
    RunArgument,
    ServiceAccountOption,
    TimeoutOption,
    WaitOption,
    assignments,
    seconds,
    with_address,
)

if TYPE_CHECKING:
    from drrho_pipelines.server.address import Address
    from drrho_pipelines.server.submission import Prepared

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The pipeline; `drrho pipeline list` shows them.")]


@with_address
def submit(
    address: Address,
    name: NameArgument,
    parameters: ParameterOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    image: ImageOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = "",
    every: EveryOption = 5.0,
    run_name: Annotated[str, typer.Option(help="Name of the run in the UI; empty = the pipeline and the time.")] = "",
    caching: CachingOption = True,
    service_account: ServiceAccountOption = "",
    commit: CommitOption = "",
) -> None:
    """Run a pipeline on a Kubeflow Pipelines server; uploads what is not there yet.

    \b
    Everything is checked before anything is sent. With --wait the exit code is 0 succeeded, 1 failed, 2 unusable input,
    3 not known (no time or connection left), 130 after Ctrl-C; the run goes on in the last two.
    Examples:
      drrho pipeline submit steering --host http://localhost:8080 -p train_method=fastclip --wait
      drrho pipeline submit steering --config my.yaml --wait --timeout 6h
    """
    limit = seconds(timeout)
    prepared = _prepared(name, parameters, (config, settings, store), image, caching, commit)
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.submission import start
    from drrho_pipelines.server.waiting import wait_for

    server = Server(address)
    submitted = start(server, prepared, run_name=run_name, service_account=service_account)
    facts = {"version": submitted.version, "id": submitted.run_id, "page": submitted.link}
    show("run", {"pipeline": name, **facts})
    if wait:
        run = wait_for(server, submitted.run_id, timeout=limit, every=every)
        show("run", {"id": run.run_id, "state": run.state})


def _prepared(
    name: str,
    parameters: list[str] | None,
    settings: tuple[Path | None, list[str] | None, str | None],
    image: str | None,
    caching: bool,
    commit: str,
) -> Prepared:
    """The pipeline and its parameters, checked, and shown as they were understood."""
    file, changes, store = settings
    config = resolve(file, changes, {"store": store}) if file or changes or store else None
    from drrho_pipelines.server.submission import prepare

    prepared = prepare(name, assignments(parameters), config=config, image=image or "", caching=caching, commit=commit)
    show("parameters", prepared.parameters)
    return prepared


@with_address
def runs(
    address: Address,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100, help="How many, the newest first.")] = 10,
) -> None:
    """Show the newest runs of the experiment.

    \b
    Examples:
      drrho pipeline runs
    """
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.steps import run_state
    from drrho_pipelines.server.submission import experiment_id

    server = Server(address)
    listed = server.ask(server.client.list_runs, page_size=count, sort_by="created_at desc", experiment_id=experiment_id(server))
    for run in listed.runs or ():
        show(f"run {run.run_id}", {"name": run.display_name, "state": run_state(run), "created": run.created_at})


@with_address
def status(
    address: Address, run: RunArgument, wait: WaitOption = False, timeout: TimeoutOption = "", every: EveryOption = 5.0
) -> None:
    """Show a run and its steps, or wait for its end as submit does.

    \b
    Examples:
      drrho pipeline status 6e4d97fc-5d64-4705-b97e-b16d28cb395e
      drrho pipeline status 6e4d97fc-5d64-4705-b97e-b16d28cb395e --wait --timeout 2h
    """
    limit = seconds(timeout)
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.steps import run_state, run_steps
    from drrho_pipelines.server.waiting import wait_for

    server = Server(address)
    found = wait_for(server, run, timeout=limit, every=every) if wait else server.ask(server.client.get_run, run)
    show("run", {"name": found.display_name, "state": run_state(found), "created": found.created_at, "page": server.link(run)})
    show("steps", {step.name: step.state for step in run_steps(found)})


@with_address
def logs(
    address: Address,
    run: RunArgument,
    step: Annotated[str, typer.Argument(metavar="[STEP]", help="One step; empty = all that have begun.")] = "",
) -> None:
    """Print the logs of a run's steps, or of one step.

    \b
    Examples:
      drrho pipeline logs 6e4d97fc-5d64-4705-b97e-b16d28cb395e train
    """
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.steps import run_steps
    from drrho_pipelines.server.waiting import step_log

    server = Server(address)
    steps = run_steps(server.ask(server.client.get_run, run))
    chosen = [found for found in steps if step in ("", found.name)]
    if not chosen:
        what = f"The run has no step '{step}' that has begun" if step else "No step of the run has begun"
        raise ConfigError(what, where=server.link(run), fix=nearest(step, (found.name for found in steps)) if steps else "")
    for found in chosen:
        log = step_log(server, run, found) if found.pods else None
        if log is None or not log.lines:
            typer.echo(f"{found.name} is {found.state}" + (f": {log.reason}" if log else ", without a log yet"), err=True)
        for line in log.lines if log else ():
            typer.echo(line if step else f"{found.name} | {line}")


@with_address
def cancel(address: Address, run: RunArgument) -> None:
    """End a run; its steps get a moment to stop.

    \b
    Examples:
      drrho pipeline cancel 6e4d97fc-5d64-4705-b97e-b16d28cb395e
    """
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.steps import ENDED, run_state

    server = Server(address)
    state = run_state(server.ask(server.client.get_run, run))
    if state in ENDED:
        raise ConfigError(f"The run has ended already, as {state}", where=server.link(run))
    server.ask(server.client.terminate_run, run)
    show("run", {"id": run, "state": run_state(server.ask(server.client.get_run, run)), "page": server.link(run)})


@with_address
def schedule(
    address: Address,
    name: NameArgument,
    cron: Annotated[str, typer.Option(help="When, in UTC: '0 3 * * *', or six fields with the second first.")],
    schedule_name: Annotated[str, typer.Option("--name", help="Name of the schedule; empty = the pipeline's.")] = "",
    parameters: ParameterOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    image: ImageOption = None,
    caching: CachingOption = True,
    service_account: ServiceAccountOption = "",
    commit: CommitOption = "",
) -> None:
    """Run a pipeline again and again, one run at a time, always the version of now; the same name again replaces a schedule.

    \b
    Times are UTC. Times that pass while the schedule is paused or the server is away are not caught up on.
    Examples:
      drrho pipeline schedule steering --cron "0 3 * * *" -p train_method=fastclip
      drrho pipeline schedule steering --cron "0 0 6 * * 1" --name weekly --config my.yaml
    """
    from drrho_pipelines.server.cron import parse_cron

    times = parse_cron(cron)
    prepared = _prepared(name, parameters, (config, settings, store), image, caching, commit)
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.schedules import schedule as make

    made = make(Server(address), prepared, times, schedule_name or name, service_account=service_account)
    facts: dict[str, Any] = {"pipeline": name, "version": prepared.version, "cron": times.text, "id": made.schedule_id}
    facts |= {"replaced": made.replaced, "next": [f"{time:%Y-%m-%d %H:%M:%S} UTC" for time in made.next_times]}
    show(f"schedule {schedule_name or name}", facts)


@with_address
def schedules(address: Address) -> None:
    """Show the schedules of the experiment.

    \b
    Examples:
      drrho pipeline schedules
    """
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.schedules import list_schedules

    for found in list_schedules(Server(address)):
        trigger = found.trigger.cron_schedule.cron if found.trigger and found.trigger.cron_schedule else ""
        facts = {"runs": found.description or "", "cron": trigger, "state": found.status, "id": found.recurring_run_id}
        show(f"schedule {found.display_name}", facts)


ScheduleArgument = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its name; `drrho pipeline schedules` shows them.")]


@with_address
def unschedule(address: Address, name: ScheduleArgument) -> None:
    """Remove a schedule; runs that it has started go on.

    \b
    Examples:
      drrho pipeline unschedule steering
    """
    _change(address, name, "delete_recurring_run", "removed")


@with_address
def pause(address: Address, name: ScheduleArgument) -> None:
    """Let a schedule rest; times that pass meanwhile are not caught up on.

    \b
    Examples:
      drrho pipeline pause steering
    """
    _change(address, name, "disable_recurring_run", "paused")


@with_address
def resume(address: Address, name: ScheduleArgument) -> None:
    """Let a paused schedule go on.

    \b
    Examples:
      drrho pipeline resume steering
    """
    _change(address, name, "enable_recurring_run", "enabled")


def _change(address: Address, name: str, method: str, word: str) -> None:
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.schedules import change

    server = Server(address)
    show(f"schedule {name}", {word: change(server, name, getattr(server.client, method))})


COMMANDS = (submit, runs, status, logs, cancel, schedule, schedules, unschedule, pause, resume)
"""In the order in which help shows them."""
