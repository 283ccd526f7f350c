"""The connection to a Kubeflow Pipelines server: kfp's client, with a time limit, renewed tokens and clear errors."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import kfp
from kfp.client.client import KF_PIPELINES_UI_ENDPOINT_ENV
from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from drrho_clip.errors import ConfigError, NotKnown
from drrho_pipelines.server.address import Address
from drrho_pipelines.server.tokens import Credentials, credentials

T = TypeVar("T")

SECONDS = (10.0, 60.0)
"""How long one request may take to connect and to be answered; kfp's client alone waits for ever."""
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, SERVER_FAULT = 401, 403, 404, 409, 500

INSTALLED = "kubeflow"
"""Namespace of the server itself."""
IN_CLUSTER = f"http://ml-pipeline.{INSTALLED}.svc.cluster.local:8888"
WHERE_TO_ASK = (
    "Set --host or KFP_ENDPOINT, e.g. http://localhost:8080 after kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
)
TOKEN_HELP = "Give one by --token-file, --token-command or KFP_TOKEN."


class Refused(ConfigError):
    """The server understood a request and refused it; `status` is HTTP's number for the reason."""

    status = 0


class Server:
    """A Kubeflow Pipelines server: `ask(server.client.get_run, run_id)` calls kfp's client, and its errors become ours."""

    def __init__(self, address: Address) -> None:
        """Connect. ConfigError where address or token are unusable, NotKnown where nothing answers."""
        self._credentials = credentials(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.client: _Client = self.ask(_Client, _host(address), address.namespace, self._credentials)
        self.where = address.host or str(self.client.configuration.host)
        self.experiment = address.experiment
        health = self.ask(self.client.get_kfp_healthz)
        if health.multi_user is None:
            raise ConfigError("What answers there is no Kubeflow Pipelines server", where=self.where, fix=WHERE_TO_ASK)
        if health.multi_user and not self.namespace:
            raise ConfigError("Several users share this server", where=self.where, fix="Set --namespace or KFP_NAMESPACE.")

    @property
    def namespace(self) -> str:
        """Namespace of the runs; empty on a server of one user."""
        return self.client.get_user_namespace() or ""

    def ask(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Make a request; a token that the server refuses is renewed once. Raises Refused or NotKnown."""
        with redirect_stdout(io.StringIO()):  # kfp prints links
            try:
                return call(*arguments, **named)
            except Refused as error:
                if error.status != UNAUTHORIZED or self._credentials is None:
                    raise
                self._credentials.renew()
                return call(*arguments, **named)

    def link(self, run_id: str) -> str:
        """The address of a run's page."""
        return f"{os.environ.get(KF_PIPELINES_UI_ENDPOINT_ENV) or self.where}/#/runs/details/{run_id}".replace("//#", "/#")


class _Client(kfp.Client):  # type: ignore[misc]
    """kfp's client; it asks once, not five times, and keeps the namespace to itself, not in a file of the user's."""

    def __init__(self, host: str, namespace: str, credentials: Credentials | None) -> None:
        super().__init__(host=host or None, namespace=namespace or INSTALLED, credentials=credentials)
        if namespace:
            self.set_user_namespace(namespace)

    def _load_config(self, host: Any, client_id: Any, namespace: str, *more: Any) -> Any:
        self.configuration = super()._load_config(host, client_id, INSTALLED, *more)
        self.configuration.logger["urllib3_logger"].setLevel(logging.ERROR)  # lost connections are told by us, once
        return self.configuration

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        api = self._healthz_api.api_client
        if not isinstance(api.request, _Request):
            api.request = _Request(api.request, self.configuration.host)
        return self._healthz_api.healthz_service_get_healthz()

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting["namespace"] = namespace

    def read_log(self, run_id: str, pod: str) -> str:
        """The log of a run's pod, for which kfp's client has no method."""
        path, ids = "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log", {"run_id": run_id, "node_id": pod}
        api = self._run_api.api_client
        answer = api.call_api(path, "GET", ids, auth_settings=["Bearer"], _preload_content=False, _return_http_data_only=True)
        return bytes(answer.data).decode(errors="replace")


class _Request:
    """What kfp's client sends with: a time limit for each request, and errors of ours."""

    def __init__(self, send: Callable[..., Any], where: str) -> None:
        self._send, self._where = send, where

    def __call__(self, *arguments: Any, _request_timeout: Any = None, **named: Any) -> Any:
        try:
            answer = self._send(*arguments, _request_timeout=_request_timeout or SECONDS, **named)
        except ApiException as error:
            raise self._meaning(error) from None
        except (HTTPError, OSError) as error:
            raise NotKnown(f"No answer: {_innermost(error)}", where=self._where, fix=WHERE_TO_ASK) from None
        if "text/html" in (answer.getheader("content-type") or ""):
            raise self._refused(UNAUTHORIZED, "It answers with a web page, as a login does", TOKEN_HELP)
        return answer

    def _meaning(self, error: ApiException) -> Exception:
        message = _message(error)
        if not error.status:  # TLS
            return NotKnown(f"No answer: {message}", where=self._where)
        if error.status == UNAUTHORIZED:
            return self._refused(error.status, f"The server does not accept the token: {message}", TOKEN_HELP)
        if error.status == FORBIDDEN:
            return self._refused(error.status, f"The server does not allow this: {message}", "Use a token that has the right.")
        if error.status >= SERVER_FAULT:
            return NotKnown(f"The server failed: {message}", where=self._where)
        return self._refused(error.status, f"The server refuses: {message}")

    def _refused(self, status: int, what: str, fix: str = "") -> Refused:
        refused = Refused(what, where=self._where, fix=fix)
        refused.status = status
        return refused


def _host(address: Address) -> str:
    """Where to ask; empty = kfp finds the way through the Kubernetes API that the kubeconfig names."""
    if address.host:
        return address.host
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return IN_CLUSTER
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    if not any(Path(path).is_file() for path in paths.split(os.pathsep)):
        raise ConfigError("No Kubeflow Pipelines server is named", fix=WHERE_TO_ASK)
    return ""


def _message(error: ApiException) -> str:
    """What the server says, without the trail of functions that it came through."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        answer = json.loads(body or "")
        return re.split(r"[Ee]rror: ", str(answer.get("message") or answer["error_message"]))[-1]
    except (ValueError, LookupError, AttributeError):
        return f"{error.status} {error.reason}".strip()


def _innermost(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    text = str(reason if isinstance(reason, Exception) else error)
    return text.rpartition(": ")[2] if text.startswith(("<", "HTTPConnection", "HTTPSConnection")) else text
