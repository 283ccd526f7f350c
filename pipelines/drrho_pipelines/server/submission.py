"""From a pipeline and parameters to a run on the server: everything is checked first, then uploaded once, then started."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from drrho_clip.config import RunConfig
from drrho_clip.errors import ConfigError, NotKnown
from drrho_components import IMAGE
from drrho_pipelines.compile import compile_pipelines
from drrho_pipelines.local import check_parameters, declared_parameters
from drrho_pipelines.mapping import pipeline_parameters
from drrho_pipelines.server.connection import CONFLICT, Refused, Server

PAGE = 100


@dataclass(frozen=True)
class Prepared:
    """A compiled pipeline (`text`, YAML) and the parameters of a run, both checked; `version` names the text."""

    pipeline: str
    version: str
    text: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Uploaded:
    """A version of a pipeline on the server."""

    pipeline_id: str
    version_id: str


@dataclass(frozen=True)
class Submitted:
    """A run on the server, and what it runs."""

    run_id: str
    link: str
    pipeline: str
    version: str


def prepare(
    pipeline: str,
    parameters: Mapping[str, Any],
    *,
    config: RunConfig | None = None,
    image: str = "",
    caching: bool = True,
    commit: str = "",
) -> Prepared:
    """Compile a pipeline and check the parameters of a run; ConfigError for what cannot be right. Sends nothing."""
    with tempfile.TemporaryDirectory(prefix="drrho-") as folder:
        (compiled,) = compile_pipelines(Path(folder), image or IMAGE, names=(pipeline,))
        declared = declared_parameters(compiled)
        given = {**(pipeline_parameters(config, declared) if config else {}), **parameters}
        values = check_parameters(compiled, given)
        text = compiled.read_text(encoding="utf-8")
    everything = {name: facts.get("defaultValue") for name, facts in declared.items()} | values
    _check_values(everything)
    text = text if caching else _without_caching(text)
    return Prepared(pipeline, _version(text, commit), text, values)


def start(server: Server, prepared: Prepared, *, run_name: str = "", service_account: str = "") -> Submitted:
    """Upload what is not there yet, and start a run of exactly that version."""
    uploaded = upload(server, prepared)
    experiment = experiment_id(server)
    name = run_name or f"{prepared.pipeline} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    try:
        run = server.ask(
            server.client.run_pipeline,
            experiment,
            name,
            params=dict(prepared.parameters),
            pipeline_id=uploaded.pipeline_id,
            version_id=uploaded.version_id,
            service_account=service_account or None,
        )
    except NotKnown as error:
        fix = f"`drrho pipeline runs` shows whether '{name}' was started all the same."
        raise NotKnown(f"The run may not have been started. {error.what}", where=error.where, fix=fix) from None
    return Submitted(run.run_id, server.link(run.run_id), prepared.pipeline, prepared.version)


def experiment_id(server: Server) -> str:
    """The id of the server's experiment, which is made when it is not there."""
    experiment = server.ask(server.client.create_experiment, server.experiment, namespace=server.namespace or None)
    return str(experiment.experiment_id)


def upload(server: Server, prepared: Prepared) -> Uploaded:
    """Put a pipeline's version on the server, or find it there: the same content has the same name."""
    with tempfile.TemporaryDirectory(prefix="drrho-") as folder:
        file = Path(folder) / f"{prepared.pipeline}.yaml"
        file.write_text(prepared.text, encoding="utf-8")
        pipeline = _found_or_made(
            lambda: _pipeline_id(server, prepared.pipeline),
            lambda: (
                server.ask(
                    server.client.upload_pipeline, str(file), prepared.pipeline, namespace=server.namespace or None
                ).pipeline_id
            ),
        )
        version_id = _found_or_made(
            lambda: _version_id(server, pipeline, prepared.version),
            lambda: (
                server.ask(
                    server.client.upload_pipeline_version, str(file), prepared.version, pipeline_id=pipeline
                ).pipeline_version_id
            ),
        )
    return Uploaded(pipeline, version_id)


def pages(listing: Callable[[str], Any], items: str) -> Iterator[Any]:
    """Every item of a listing that comes in pages."""
    token = ""
    while True:
        page = listing(token)
        yield from getattr(page, items) or ()
        token = page.next_page_token or ""
        if not token:
            return


def _found_or_made(find: Callable[[], str], make: Callable[[], str]) -> str:
    """What is there; else it is made; where somebody else was faster, what they made."""
    if found := find():
        return found
    try:
        return make()
    except Refused as error:
        if error.status == CONFLICT and (found := find()):
            return found
        raise


def _pipeline_id(server: Server, name: str) -> str:
    only = json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})  # 1: equals
    listed = pages(
        lambda token: server.ask(
            server.client.list_pipelines, page_token=token, page_size=PAGE, filter=only, namespace=server.namespace or None
        ),
        "pipelines",
    )
    return next((str(pipeline.pipeline_id) for pipeline in listed), "")


def _version_id(server: Server, pipeline_id: str, name: str) -> str:
    listed = pages(
        lambda token: server.ask(
            server.client.list_pipeline_versions, pipeline_id, page_token=token, page_size=PAGE, sort_by="created_at desc"
        ),
        "pipeline_versions",
    )
    return next((str(version.pipeline_version_id) for version in listed if version.display_name == name), "")


def _version(text: str, commit: str) -> str:
    """Package, commit, content: `0.1.0-1a2b3c4d-5e6f7a8b`."""
    content = hashlib.sha256(text.encode()).hexdigest()[:8]
    return "-".join(part for part in (version("drrho-clip"), commit[:8], content) if part)


def _without_caching(text: str) -> str:
    """The compiled pipeline with every step's cache off: the server takes no such option for a version that it has."""
    documents = list(yaml.safe_load_all(text))
    for component in (documents[0]["root"], *documents[0]["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    return yaml.safe_dump_all(documents, sort_keys=True)


def _check_values(values: Mapping[str, Any]) -> None:
    """Refuse what a run in a cluster cannot use, and what would be readable by everybody."""
    for name, value in values.items():
        if isinstance(value, str) and "://" in value and urlsplit(value).password:
            raise ConfigError(
                f"The parameter '{name}' holds a user name and password, which everybody who sees the run could read",
                fix="Put the keys into a Kubernetes secret and name it in store_secret.",
            )
    store = values.get("store")
    if store is not None and not str(store).startswith("s3://"):
        raise ConfigError(f"The store '{store}' is a folder, which pods do not share", fix="Set store to s3://bucket/prefix.")
