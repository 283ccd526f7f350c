"""The cluster's API: plain requests with plain dicts, over the official client's connections and credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from drrho_clip.errors import ConfigError, DrrhoError

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5.0, 30.0)  # seconds to connect, and without a byte
Object = dict[str, Any]


class ClusterError(DrrhoError):
    """The cluster refused a request, or could not be reached (status 0)."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in (0, 429) or self.status >= 500


class Forbidden(ClusterError):
    """Whoever asks may not do or know this (status 403)."""


class Cluster:
    """One API server as one user sees it. `namespace` is what was asked for, else the user's own; `inside`: the user is a pod."""

    def __init__(self, client: Any, namespace: str, *, inside: bool) -> None:
        self._client, self.namespace, self.inside = client, namespace, inside
        self.server = str(client.configuration.host)

    def get(self, path: str, **query: Any) -> Object:
        """Read an object or a list; ClusterError."""
        return self._request("GET", path, query)

    def find(self, path: str) -> Object | None:
        """Read an object, None where there is none; other ClusterErrors are raised."""
        try:
            return self.get(path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def resources(self, group_version: str) -> set[str]:
        """Plural names of the kinds in an API group version, e.g. `kubeflow.org/v1`; empty where it is not there."""
        found = self.find(f"/apis/{group_version}")
        return {resource["name"] for resource in found["resources"]} if found else set()

    def create(self, path: str, body: Object) -> Object:
        """Create an object; ClusterError, with status 409 where its name is taken."""
        return self._request("POST", path, {}, body)

    def delete(self, path: str) -> None:
        """Delete an object and, by and by, what it owns; one that is not there is no error."""
        try:
            self._request("DELETE", path, {"propagationPolicy": "Background"})
        except ClusterError as error:
            if error.status != 404:
                raise

    def watch(self, path: str, version: str, seconds: int, **query: Any) -> Iterator[Object]:
        """Yield the changes after `version`, for so many seconds; ClusterError with status 410 where that is too long ago."""
        asked = {**query, "watch": "true", "resourceVersion": version, "timeoutSeconds": seconds}
        for line in self.lines(path, read_timeout=seconds + 10.0, **asked):
            change = json.loads(line)
            if change["type"] == "ERROR":
                raise ClusterError(str(change["object"].get("message")), status=int(change["object"].get("code", 0)))
            yield change

    def lines(self, path: str, read_timeout: float = 60.0, **query: Any) -> Iterator[bytes]:
        """Yield the lines of an answer as they come; a broken connection is a ClusterError with status 0."""
        from urllib3.exceptions import HTTPError

        response = self._send("GET", path, query, None, (TIMEOUT[0], read_timeout))
        held = b""
        try:
            for part in response.stream(2**16, decode_content=True):
                *whole, held = (held + part).split(b"\n")
                yield from whole
            if held:
                yield held
        except HTTPError as error:
            raise ClusterError(f"The connection broke: {error}", where=path) from None
        finally:
            response.close()

    def text(self, path: str, **query: Any) -> str:
        """Read an answer that is not JSON."""
        return bytes(self._send("GET", path, query, None, TIMEOUT).data).decode(errors="replace")

    def _request(self, method: str, path: str, query: Mapping[str, Any], body: Object | None = None) -> Object:
        response = self._send(method, path, query, body, TIMEOUT)
        return cast(Object, json.loads(response.data))

    def _send(self, method: str, path: str, query: Mapping[str, Any], body: Object | None, timeout: tuple[float, float]) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=timeout,
            )
        except ApiException as error:
            raise _refused(error, f"{method} {path}") if error.status else self._silent(str(error.reason)) from None
        except (HTTPError, OSError) as error:
            raise self._silent(type(error).__name__) from None

    def _silent(self, reason: str) -> ClusterError:
        return ClusterError(
            f"The API server does not answer ({' '.join(reason.split())})",
            where=self.server,
            fix="Check the kubeconfig's server, the network, and that the cluster runs.",
        )


def connect(context: str = "", namespace: str = "") -> Cluster:
    """Reach a cluster as kubectl does: with KUBECONFIG, else ~/.kube/config, else as the pod that this is; ConfigError."""
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False
    usual = os.path.expanduser("~/.kube/config")
    file = os.environ.get("KUBECONFIG") or (usual if os.path.isfile(usual) else "")
    if file:
        own = _load(file, context, settings)
    else:
        try:
            config.load_incluster_config(client_configuration=settings)
            own = POD_NAMESPACE.read_text().strip()
        except (config.ConfigException, OSError):
            raise ConfigError(
                "There is no kubeconfig, and this is no pod with a service account",
                fix="Set KUBECONFIG to the file that kubectl uses, or run this in the cluster. The launcher local needs none.",
            ) from None
    return Cluster(client.ApiClient(settings), namespace or own, inside=not file)


def own_pod(cluster: Cluster) -> Object | None:
    """The pod that this process runs in, or None outside of the cluster and where it may not look."""
    if not cluster.inside:
        return None
    name = os.environ.get("KFP_POD_NAME") or os.uname().nodename
    try:
        return cluster.find(f"/api/v1/namespaces/{cluster.namespace}/pods/{name}")
    except Forbidden:
        return None


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
    return str(chosen["context"].get("namespace") or "default")


def _refused(error: Any, request: str) -> ClusterError:
    """What the server itself says, which names who may not do what, or what is wrong with an object."""
    try:
        what = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        what = f"The API server answers {error.status} {error.reason}"
    if error.status == 403:
        return Forbidden(what, where=request, fix="Ask somebody who may, or leave it.", status=403)
    fix = "Log in again, as for kubectl." if error.status == 401 else ""
    return ClusterError(what, where=request, fix=fix, status=int(error.status))
