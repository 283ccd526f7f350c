"""The cluster's API: plain requests with plain dicts, over the official client's connections and credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from drrho_clip.errors import LaunchError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5.0, 30.0)  # seconds to connect, and without a byte
Object = dict[str, Any]


class ClusterError(LaunchError):
    """The cluster refused a request, or could not be reached (status 0)."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in (0, 429) or self.status >= 500


class Cluster:
    """One API server as one user sees it. `namespace` is where the launcher itself is, or what the kubeconfig says."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client, self.namespace = client, namespace

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
            raise ClusterError(_message(error), where=f"{method} {path}", status=int(error.status or 0)) from None
        except (HTTPError, OSError) as error:
            raise ClusterError(f"The cluster's API does not answer: {error}", where=f"{method} {path}") from None


def connect() -> Cluster:
    """Reach the cluster that this process runs in, else the one of the kubeconfig; LaunchError where there is neither."""
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False
    try:
        config.load_incluster_config(client_configuration=settings)
        namespace = NAMESPACE_FILE.read_text().strip()
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
            namespace = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except (config.ConfigException, KeyError) as error:
            raise LaunchError(
                f"This launcher needs a Kubernetes cluster, and no service account or kubeconfig leads to one: {error}",
                fix="Run the step in the cluster, set KUBECONFIG, or use the launcher local.",
            ) from None
    return Cluster(client.ApiClient(settings), namespace)


def own_pod(cluster: Cluster) -> Object | None:
    """The pod that this process runs in, or None outside of the cluster and where it may not look."""
    if not NAMESPACE_FILE.exists():
        return None
    name = os.environ.get("KFP_POD_NAME") or os.uname().nodename
    try:
        return cluster.find(f"/api/v1/namespaces/{cluster.namespace}/pods/{name}")
    except ClusterError as error:
        if error.status != 403:
            raise
        return None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
