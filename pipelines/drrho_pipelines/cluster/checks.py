"""Each thing that a run needs of its namespace and cluster: whether it is there, and what to do where it is not."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from drrho_clip.doctor import Finding, check_store
from drrho_clip.errors import DrrhoError
from drrho_components.kube import Cluster, Forbidden, connect
from drrho_components.rights import FIX
from drrho_components.steps import SECRET_KEYS
from drrho_pipelines.cluster.defaults import config_map
from drrho_pipelines.cluster.kinds import kinds
from drrho_pipelines.cluster.resources import gpus, queue, server
from drrho_pipelines.cluster.rights import rights
from drrho_pipelines.parameters import SHARED
from drrho_pipelines.pods import CONFIG_MAP, POD_PARAMETERS

ACCOUNTS = ("pipeline-runner", "default-editor")
"""What runs have as service account: of Kubeflow Pipelines alone, and in a profile."""


@dataclass(frozen=True)
class Wanted:
    """What is to be looked at; empty = found in the cluster, or not looked at (queue, host)."""

    context: str = ""
    namespace: str = ""
    service_account: str = ""
    secret: str = POD_PARAMETERS["store_secret"][1]
    store: str = ""
    queue: str = ""
    host: str = ""


def examine_cluster(wanted: Wanted) -> list[Finding]:
    """Look at everything; what cannot be looked at is a finding too. Nothing is written but a probe in the store."""
    try:
        cluster = connect(wanted.context, wanted.namespace)
        version = cluster.get("/version").get("gitVersion", "of unknown version")
    except DrrhoError as error:
        return [_broken("cluster", error)]
    found = [Finding("cluster", True, f"Kubernetes {version} at {cluster.server}")]
    there: set[str] = set()
    parts: dict[str, Callable[[], Iterable[Finding]]] = {
        "namespace": partial(_namespace, cluster),
        "operators": partial(_operators, cluster, there),
        "rights": lambda: rights(cluster, wanted.service_account or _account(cluster), there),
        "secret": partial(_secret, cluster, wanted.secret),
        "defaults": partial(_defaults, cluster),
        "store": partial(_store, cluster, wanted),
        "GPU nodes": partial(gpus, cluster),
        "queue": partial(queue, cluster, wanted.queue, there),
        "Kubeflow Pipelines": partial(server, wanted.host),
    }
    for name, part in parts.items():
        try:
            found.extend(part())
        except DrrhoError as error:
            found.append(_broken(name, error))
    return found


def _broken(name: str, error: DrrhoError) -> Finding:
    """What may not be looked at is not known; what cannot be is wrong."""
    detail = error.what + (f" ({error.where})" if error.where else "")
    return Finding(name, None if isinstance(error, Forbidden) else False, detail, error.fix)


def _namespace(cluster: Cluster) -> Iterator[Finding]:
    if cluster.find(f"/api/v1/namespaces/{cluster.namespace}") is None:
        yield Finding("namespace", False, f"there is no namespace '{cluster.namespace}'", "Name another with --namespace.")
    else:
        yield Finding("namespace", True, cluster.namespace)


def _operators(cluster: Cluster, there: set[str]) -> Iterator[Finding]:
    found, findings = kinds(cluster)
    there |= found
    yield from findings


def _account(cluster: Cluster) -> str:
    """The service account that Kubeflow's runs have here; empty where it is neither, or may not be seen."""
    for name in ACCOUNTS:
        try:
            if cluster.find(f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}") is not None:
                return name
        except Forbidden:
            pass
    return ""


def _secret(cluster: Cluster, name: str) -> Iterator[Finding]:
    if not name:
        yield Finding("secret", None, "none is used: pods have their rights from elsewhere")
        return
    found = cluster.find(f"/api/v1/namespaces/{cluster.namespace}/secrets/{name}")
    wanted = " ".join(f"--from-literal={key}=..." for key in SECRET_KEYS)
    make = f"kubectl create secret generic {name} -n {cluster.namespace} {wanted}"
    if found is None:
        fix = f"Make it: {make}; or name another with --secret, as in store_secret of the run (empty: none is needed)."
        yield Finding("secret", False, f"there is no secret '{name}' in {cluster.namespace}", fix)
        return
    keys = found.get("data") or {}
    if missing := [key for key in SECRET_KEYS if not keys.get(key)]:
        yield Finding(
            "secret", False, f"'{name}' has no {' and no '.join(missing)}", f"Its keys must be {', '.join(SECRET_KEYS)}."
        )
    else:
        yield Finding("secret", True, f"'{name}' with {', '.join(SECRET_KEYS)}")


def _defaults(cluster: Cluster) -> Iterator[Finding]:
    values = config_map(cluster)
    if values is None:
        yield Finding("defaults", None, f"there is no ConfigMap '{CONFIG_MAP}'", FIX)
    elif not _public(values.get("store_endpoint", "")):
        fix = "Put the keys into a secret: everybody in the namespace can read a ConfigMap."
        yield Finding("defaults", False, f"store_endpoint of the ConfigMap '{CONFIG_MAP}' holds a user name or password", fix)
    else:
        yield Finding("defaults", True, ", ".join(f"{key} {value}" for key, value in sorted(values.items())) or "none set")


def _store(cluster: Cluster, wanted: Wanted) -> Iterator[Finding]:
    """As a step would use it: with the keys of the secret, at the ConfigMap's endpoint where this environment names none."""
    values: dict[str, str] = {}
    keys: dict[str, str] = {}
    with suppress(Forbidden):
        values = config_map(cluster) or {}
    with suppress(Forbidden):
        secret = cluster.find(f"/api/v1/namespaces/{cluster.namespace}/secrets/{wanted.secret}") if wanted.secret else None
        keys = (secret or {}).get("data") or {}
    uri = wanted.store or values.get("store") or SHARED["store"]
    settings = {variable: base64.b64decode(keys[key]).decode() for key, variable in SECRET_KEYS.items() if keys.get(key)}
    if values.get("store_endpoint") and not os.environ.keys() & {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}:
        settings["AWS_ENDPOINT_URL"] = values["store_endpoint"]
    with _environment(settings):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        host = urlsplit(endpoint).hostname or ""
        if uri.startswith("s3://") and not cluster.inside and host and _public(endpoint) and not _resolves(host):
            fix = "Run this in a pod, or forward its port here and set AWS_ENDPOINT_URL to that."
            yield Finding("store", None, f"{endpoint} is a name that only the cluster knows, so {uri} was not tried", fix)
            return
        yield check_store(uri)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The environment has these `settings` for a while."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _public(endpoint: str) -> bool:
    """Whether it may be shown: it holds no user name and no password."""
    return "@" not in urlsplit(endpoint).netloc


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
