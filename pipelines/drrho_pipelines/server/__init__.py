"""Runs and schedules on a Kubeflow Pipelines server, over kfp's client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drrho_clip.config import RunConfig
    from drrho_pipelines.server.submission import Submitted


def submit(
    pipeline: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    config: RunConfig | None = None,
    image: str = "",
    wait: bool = False,
    timeout: float | None = None,
    caching: bool = True,
    commit: str = "",
    run_name: str = "",
    service_account: str = "",
    **address: str,
) -> Submitted:
    """Run a pipeline on a Kubeflow Pipelines server: what `drrho pipeline submit` does.

    `parameters` are those of the compiled pipeline; `config` gives those that a run's config speaks of. `address` is host,
    namespace, experiment, token_file, token_command (`server.address.Address`). With `wait`, returns when the run has succeeded;
    raises RunFailed with the failed step's reason, or NotKnown after `timeout` seconds or without a connection.
    ConfigError, before anything is sent, for what cannot be right.
    """
    from drrho_pipelines.server.address import Address
    from drrho_pipelines.server.connection import Server
    from drrho_pipelines.server.submission import prepare, start
    from drrho_pipelines.server.waiting import wait_for

    prepared = prepare(pipeline, parameters or {}, config=config, image=image, caching=caching, commit=commit)
    server = Server(Address.parse(address))
    submitted = start(server, prepared, run_name=run_name, service_account=service_account)
    if wait:
        wait_for(server, submitted.run_id, timeout=timeout)
    return submitted
