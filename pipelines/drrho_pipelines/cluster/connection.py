"""A connection to a Kubernetes API server, for reading: plain JSON, and an answer within seconds or a clear error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drrho_clip.errors import ConfigError, DrrhoError

SECONDS = 10
IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ClusterError(DrrhoError):
    """The API server cannot be reached or gives no usable answer."""


class Forbidden(ClusterError):
    """Whoever asks may not know this."""


@dataclass(frozen=True)
class Cluster:
    """A cluster as one user sees it; `namespace` is the one that was given, else the context's or the pod's own."""

    api: Any
    server: str
    namespace: str
    inside: bool

    def get(self, path: str) -> dict[str, Any] | None:
        """The object under `path`, None where there is none. Forbidden, ClusterError."""
        return self._call("GET", path, None)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send an object (here only questions: access reviews); return the answer."""
        answer = self._call("POST", path, body)
        if answer is None:
            raise ClusterError("The API server does not know this path", where=path)
        return answer

    def resources(self, group_version: str) -> set[str]:
        """Plural names of the kinds in an API group version, e.g. `kubeflow.org/v1`; empty where it is not there."""
        found = self.get(f"/apis/{group_version}")
        return {resource["name"] for resource in found["resources"]} if found else set()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any] | None:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            data, _, _ = self.api.call_api(
                path, method, header_params=headers, body=body, response_type="object", auth_settings=["BearerToken"],
                _request_timeout=SECONDS,
            )  # fmt: skip
        except ApiException as error:
            if error.status == 404:
                return None
            raise _refused(error, path) if error.status else self._silent(str(error.reason)) from None
        except (HTTPError, OSError) as error:
            raise self._silent(type(error).__name__) from None
        found: dict[str, Any] = data
        return found

    def _silent(self, reason: str) -> ClusterError:
        return ClusterError(
            f"The API server does not answer ({' '.join(reason.split())})",
            where=self.server,
            fix="Check the kubeconfig's server, the network, and that the cluster runs.",
        )


def connect(context: str = "", namespace: str = "") -> Cluster:
    """The cluster of the kubeconfig (KUBECONFIG, ~/.kube/config), or of the pod that this runs in; ConfigError without either."""
    from kubernetes import client, config

    settings = client.Configuration()
    file = _kubeconfig()
    if file is None and not IN_CLUSTER.is_dir():
        raise ConfigError(
            "There is no kubeconfig, and this is no pod",
            fix="Set KUBECONFIG to the file that kubectl uses, or run this in a pod of the cluster.",
        )
    if file is None:
        config.load_incluster_config(client_configuration=settings)
        own = (IN_CLUSTER / "namespace").read_text().strip()
    else:
        own = _load(file, context, settings)
    settings.retries = False
    return Cluster(client.ApiClient(settings), settings.host, namespace or own, inside=file is None)


CONFIG_MAP = "drrho-clip"
"""Name of the namespace's defaults."""


def config_map(cluster: Cluster) -> dict[str, str] | None:
    """What the namespace's ConfigMap of defaults holds; None where there is none."""
    found = cluster.get(f"/api/v1/namespaces/{cluster.namespace}/configmaps/{CONFIG_MAP}")
    return None if found is None else found.get("data") or {}


def defaults_of(namespace: str) -> dict[str, str]:
    """The same of a namespace of the kubeconfig's cluster; ConfigError where it has none."""
    found = config_map(connect(namespace=namespace))
    if found is None:
        fix = "Run `kubectl apply -k` on an overlay of k8s/overlays, or give --image."
        raise ConfigError(f"There is no ConfigMap '{CONFIG_MAP}' in the namespace '{namespace}'", fix=fix)
    return found


def _kubeconfig() -> str | None:
    named = os.environ.get("KUBECONFIG", "")
    if named:
        return named
    usual = Path("~/.kube/config").expanduser()
    return str(usual) if usual.is_file() else None


def _load(file: str, context: str, settings: Any) -> str:
    """Fill `settings` from a kubeconfig; return the namespace of its context."""
    import yaml
    from kubernetes import config

    try:
        contexts, current = config.list_kube_config_contexts(file)
        chosen = next((item for item in contexts if item["name"] == context), None) if context else current
        if chosen is None:
            known = ", ".join(item["name"] for item in contexts)
            raise ConfigError(f"The kubeconfig has no context '{context}'", where=file, fix=f"It has: {known}.")
        config.load_kube_config(file, chosen["name"], settings, persist_config=False)
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The kubeconfig cannot be used: {reason}", where=file, fix="Try `kubectl version` with it.") from None
    return str(chosen["context"].get("namespace") or "")


def _refused(error: Any, path: str) -> ClusterError:
    if error.status == 401:
        return ClusterError("The API server does not know who asks", where=path, fix="Log in again, as for kubectl.")
    if error.status == 403:
        return Forbidden("You may not read this", where=path, fix="Ask somebody who may, or leave it.")
    return ClusterError(f"The API server answers {error.status} {error.reason}", where=path)
