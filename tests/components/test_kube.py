"""Which cluster is reached, and what a refusal says; the tests of the cluster use all the rest."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drrho_components import kube
from drrho_components.kube import ClusterError, Forbidden, connect
from kubeconfig_helpers import write_kubeconfig


def test_credentials_are_taken_in_the_order_of_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All three are there: each in turn is what is left when the one before it is taken away."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path / "named", "http://named", namespace="ours"))
    usual = Path(write_kubeconfig(tmp_path / ".kube/config", "http://usual"))
    for name, variable in (("token", "SERVICE_TOKEN_FILENAME"), ("ca.crt", "SERVICE_CERT_FILENAME")):
        (tmp_path / name).write_text("some")
        monkeypatch.setattr(f"kubernetes.config.incluster_config.{variable}", str(tmp_path / name))
    (tmp_path / "namespace").write_text("pods-own")
    monkeypatch.setattr(kube, "POD_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "pod")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    def reached() -> tuple[str, str, bool]:
        found = connect()
        return found.server, found.namespace, found.inside

    assert reached() == ("http://named", "ours", False)
    monkeypatch.delenv("KUBECONFIG")
    assert reached() == ("http://usual", "default", False)
    usual.unlink()
    assert reached() == ("https://pod:443", "pods-own", True)
    assert connect(namespace="other").namespace == "other"


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that answers /STATUS with this status and what an API server says."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:]))
            self.end_headers()
            self.wfile.write(json.dumps({"message": 'pods "p" is forbidden: User "me" cannot'}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refusal_is_said_in_the_servers_words(refusing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path / "config", refusing))
    cluster = connect()
    assert cluster.find("/404") is None
    with pytest.raises(Forbidden, match=r'User "me" cannot .GET /403.*Ask somebody who may') as forbidden:
        cluster.get("/403")
    assert (forbidden.value.status, forbidden.value.passing) == (403, False)
    with pytest.raises(ClusterError, match="Log in again"):
        cluster.get("/401")
    with pytest.raises(ClusterError) as passing:
        cluster.get("/503")
    assert passing.value.passing
