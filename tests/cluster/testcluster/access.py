"""What tests hold in their hands: access to a cluster, whoever made it, and to the S3 server beside it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kubernetes
import yaml

from drrho_pipelines.seaweed import SeaweedServer

T = TypeVar("T")
SECONDS = 120.0  # the API, its clients and the tests share the machine's cores
SECRET = "mlpipeline-minio-artifact"  # the name that Kubeflow Pipelines gives it


@dataclass(frozen=True, kw_only=True)
class Access:
    """A cluster as its administrator sees it."""

    kubeconfig: Path
    program: Path | str  # kubectl
    image: str  # the product's, ready on the node
    node: str
    node_ip: str  # address of the machine that runs the tests, as pods see it

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl and return its output; RuntimeError with its words if it fails and `check` is set."""
        result = self.run_kubectl(*arguments, stdin=stdin)
        if check and result.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)} ended with {result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def run_kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl and return how it ended and what it said."""
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True)

    def apply(self, namespace: str, *objects: Mapping[str, Any] | str) -> None:
        """Apply objects, each a mapping or YAML text; RuntimeError with the server's words if it refuses one."""
        texts = [item if isinstance(item, str) else yaml.safe_dump(dict(item)) for item in objects]
        self.kubectl(f"--namespace={namespace}", "apply", "--filename=-", stdin="\n---\n".join(texts))

    def get(self, namespace: str, *what: str) -> dict[str, Any]:
        """Return an object, or a list of them, as the API gives it: get("ns", "pod", "name")."""
        found: dict[str, Any] = json.loads(self.kubectl(f"--namespace={namespace}", "get", *what, "--output=json"))
        return found

    def api(self) -> kubernetes.client.ApiClient:
        """A client of the Python SDK for this cluster, independent of any other: CoreV1Api(cluster.api())."""
        return kubernetes.config.new_client_from_config(str(self.kubeconfig))

    def wait_for(self, what: str, look: Callable[[], T | None], seconds: float = SECONDS) -> T:
        """Return what `look` gives once it is true; AssertionError with the last answer when time is up."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s, but {found!r}"
            time.sleep(0.3)
        return found

    def wait_for_pod(self, namespace: str, name: str, *phases: str, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the pod once it is in one of these phases; by default Succeeded or Failed."""
        wanted = phases or ("Succeeded", "Failed")

        def look() -> dict[str, Any] | None:
            pod = self.get(namespace, "pod", name)
            return pod if pod["status"].get("phase") in wanted else None

        try:
            return self.wait_for(f"pod {name} {' or '.join(wanted)}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl(f'--namespace={namespace}', 'describe', 'pod', name)}") from None

    def wait_for_condition(
        self, namespace: str, kind: str, name: str, condition: str, seconds: float = SECONDS
    ) -> dict[str, Any]:
        """Return the object once its condition is True."""

        def look() -> dict[str, Any] | None:
            found = self.get(namespace, kind, name)
            conditions = found.get("status", {}).get("conditions", [])
            return found if any(item["type"] == condition and item["status"] == "True" for item in conditions) else None

        try:
            return self.wait_for(f"{kind} {name} {condition}", look, seconds)
        except AssertionError as error:
            shown = self.kubectl(f"--namespace={namespace}", "get", kind, name, "--output=yaml")
            pods = self.kubectl(f"--namespace={namespace}", "get", "pods,events", "--output=wide")
            raise AssertionError(f"{error}\n{shown}\n{pods}") from None

    def logs(self, namespace: str, pod: str, *arguments: str) -> str:
        """Return a pod's log."""
        return self.kubectl(f"--namespace={namespace}", "logs", pod, *arguments)


@dataclass(frozen=True)
class S3:
    """A running S3 server, reached by tests and pods alike."""

    server: SeaweedServer

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return self.server.endpoint

    @property
    def store_uri(self) -> str:
        """URI of its bucket."""
        return self.server.store_uri

    @property
    def environment(self) -> dict[str, str]:
        """AWS_* variables that lead a process, or a pod, to it."""
        return self.server.environment

    @property
    def access_key(self) -> str:
        """Access key of its owner."""
        return self.environment["AWS_ACCESS_KEY_ID"]

    @property
    def secret_key(self) -> str:
        """Secret key of its owner."""
        return self.environment["AWS_SECRET_ACCESS_KEY"]

    def secret(self) -> dict[str, Any]:
        """The Secret that leads to it, of the shape and name that Kubeflow Pipelines uses."""
        keys = {"accesskey": self.access_key, "secretkey": self.secret_key}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys}


def local_address(kubeconfig: Path) -> str:
    """Address of this machine on the way to a cluster's API server."""
    content = yaml.safe_load(kubeconfig.read_text())
    server = urlsplit(content["clusters"][0]["cluster"]["server"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server.hostname, server.port or 443))
        address: str = probe.getsockname()[0]
        return address
