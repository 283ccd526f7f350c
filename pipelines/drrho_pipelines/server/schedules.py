"""Schedules: recurring runs of one version of a pipeline, known by their name in the experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drrho_clip.errors import ConfigError, nearest
from drrho_pipelines.server.connection import Server
from drrho_pipelines.server.cron import Cron
from drrho_pipelines.server.submission import PAGE, Prepared, experiment_id, pages, upload


@dataclass(frozen=True)
class Scheduled:
    """A schedule as it is on the server now."""

    schedule_id: str
    replaced: int
    next_times: list[datetime]


def schedule(server: Server, prepared: Prepared, cron: Cron, name: str, *, service_account: str = "") -> Scheduled:
    """Run exactly this version at the times of `cron`, one run at a time; times that were missed stay missed.

    A schedule cannot be edited: one of the same name is deleted once the new one is there.
    """
    uploaded = upload(server, prepared)
    old = [found for found in list_schedules(server) if found.display_name == name]
    made = server.ask(
        server.client.create_recurring_run,
        experiment_id(server),
        name,
        description=f"drrho {prepared.pipeline} {prepared.version}",
        cron_expression=cron.text,
        max_concurrency=1,
        no_catchup=True,
        params=dict(prepared.parameters),
        pipeline_id=uploaded.pipeline_id,
        version_id=uploaded.version_id,
        service_account=service_account or None,
    )
    for found in old:
        server.ask(server.client.delete_recurring_run, found.recurring_run_id)
    return Scheduled(made.recurring_run_id, len(old), cron.next_times(datetime.now(UTC)))


def list_schedules(server: Server) -> list[Any]:
    """The schedules of the experiment."""
    experiment = experiment_id(server)
    return list(
        pages(
            lambda token: server.ask(
                server.client.list_recurring_runs, page_token=token, page_size=PAGE, experiment_id=experiment
            ),
            "recurring_runs",
        )
    )


def change(server: Server, name: str, call: Callable[[str], Any]) -> int:
    """Do something to every schedule of this name, and return how many there were; ConfigError names the nearest names."""
    schedules = list_schedules(server)
    found = [item.recurring_run_id for item in schedules if item.display_name == name]
    if not found:
        known = {item.display_name for item in schedules}
        raise ConfigError(
            f"There is no schedule '{name}'",
            where=f"experiment {server.experiment}",
            fix=nearest(name, known) if known else "The experiment has no schedules.",
        )
    for schedule_id in found:
        server.ask(call, schedule_id)
    return len(found)
