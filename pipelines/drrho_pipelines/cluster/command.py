"""The command `doctor` of the whole product: the library's, and with --cluster what is true of a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from drrho_clip.cli import setup
from drrho_clip.cli.options import ConfigOption, StoreOption
from drrho_clip.errors import ConfigError


def doctor(
    config: ConfigOption = None,
    store: StoreOption = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at the cluster of the kubeconfig instead.")] = False,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Where runs are; the context's own.")] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    account: Annotated[str | None, typer.Option("--service-account", help="Of the runs; found by its name.")] = None,
    secret: Annotated[str | None, typer.Option(help="Secret with the store's keys; '' where none is needed.")] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue's queue (LocalQueue) of the training jobs.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of Kubeflow Pipelines.")] = None,
) -> None:
    """Look whether everything is there: Python, torch, GPU, store, disk, or what a run needs of a cluster.

    \b
    Examples:
      drrho doctor --store s3://bucket/prefix
      drrho doctor --config my.yaml
      drrho doctor --cluster --namespace kubeflow --host http://localhost:8080
    """
    named = {
        "namespace": namespace,
        "context": context,
        "service_account": account,
        "queue": queue,
        "host": host,
        "secret": secret,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if not cluster:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')} says something of a cluster", fix="Add --cluster.")
        setup.doctor(config, store)
        return
    from drrho_clip.config import load_config
    from drrho_pipelines.cluster.checks import Wanted, examine_cluster

    uri = store or (load_config(config).store if config else "")
    setup.say(examine_cluster(Wanted(store=uri, **given)))
