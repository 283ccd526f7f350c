"""A real Kubernetes cluster for the tests here, and what they share; `make test-cluster` runs them.

Fixtures:
    cluster     (session) the running cluster: `kubectl`, `apply`, `api`, `wait_for`, the product's image, the node
    s3          (session) a real S3 server that tests and pods reach at the same address, with its Secret as Kubeflow shapes it
    namespace   (test) a fresh namespace that enforces Pod Security "restricted", with the Secret of `s3`
    gpus        (test) a function that pretends GPUs on the node until the test ends
    installed   (test) `namespace` with what k8s/overlays/standalone makes, and the service account of Kubeflow Pipelines
    runner      (test) runs compiled pipelines as pods of `installed`, under that account
    server      (test) the stand-in for the server of Kubeflow Pipelines, which hands its runs to `runner`
    store       (test) a store on `s3` that this process and the pods reach
    drrho       (test) a function that runs `drrho pipeline ...` against `server`

With the cluster of this machine, the tests' own process is inside the cluster's network: the API, pods and Services are reached
directly, and nothing else is. With --kubeconfig it is where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from drrho_clip.storage import Store, open_store
from drrho_pipelines.seaweed import SeaweedServer
from kfp_stand_in import StandIn
from pod_runner import PodRunner
from testcluster import packages, system
from testcluster.access import S3, Access, local_address
from testcluster.cluster import Cluster, build_all
from testcluster.places import PRODUCT
from testcluster.report import Progress

HERE = Path(__file__).parent
K8S = HERE.parents[1] / "k8s"
ACCOUNT = "pipeline-runner"  # the service account of steps, where Kubeflow Pipelines is installed alone
NAME = "test"
_LEFT_OUT = pytest.StashKey[int]()
_LAYOUT = pytest.StashKey[Path]()  # the product's image
TEST_SECONDS = 900  # the first test's time holds the start of the cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster", "tests/cluster")
    group.addoption("--kubeconfig", help="use this cluster instead of a new one on this machine; nothing is built")
    group.addoption("--cluster", help="use this running cluster of the harness, made by `make cluster` (its name is local)")
    group.addoption("--image", default=PRODUCT, help="the product's image in that cluster (default: %(default)s)")
    group.addoption("--host-ip", help="with --kubeconfig: address of this machine as pods see it (default: found out)")


@pytest.hookimpl(tryfirst=True)  # before the markers are looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cluster's tests out unless they were asked for; skip them where no cluster can be."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if not _asked(config):
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)
        config.stash[_LEFT_OUT] = len(ours)
        return
    reason = "" if _option(config, "kubeconfig") else packages.why_not()
    for item in ours:
        item.add_marker(pytest.mark.cluster)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"no test cluster: {reason}; --kubeconfig FILE takes another one"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the cluster needs before any test's time runs."""
    ours = [item for item in session.items if item.path.is_relative_to(HERE) and not item.get_closest_marker("skip")]
    config = session.config
    if ours and not any(_option(config, option) for option in ("kubeconfig", "cluster", "collectonly")):
        with _uncaptured(config):
            try:
                config.stash[_LAYOUT] = build_all(Progress())
            except RuntimeError as error:  # says all that there is to know
                pytest.exit(str(error), returncode=1)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out} tests on a real cluster were left out: `make test-cluster` runs them.")


def _option(config: pytest.Config, name: str) -> Any:
    """Value of an option; None where this file was read too late to add any, as with `pytest -m cluster`."""
    return config.getoption(name, None)


def _asked(config: pytest.Config) -> bool:
    """Whether the command names this folder, something in it, or the marker."""
    root = config.invocation_params.dir
    named = any((root / argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in config.args)
    return named or "cluster" in (config.getoption("markexpr") or "")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Access]:
    """The cluster, with the operators and the product's image in it."""
    config = request.config
    if kubeconfig := _option(config, "kubeconfig"):
        yield _foreign(Path(kubeconfig).absolute(), _option(config, "image"), _option(config, "host_ip"))
        return
    own = Cluster(_option(config, "cluster") or NAME, Progress())
    with _uncaptured(config):
        if not _option(config, "cluster"):
            own.start_with_everything(config.stash[_LAYOUT])
    here, outside = own.places, "/proc/self/ns/net"
    with open(outside, "rb") as before:
        system.enter(own.network, system.NEW_NET)
        try:
            yield Access(
                kubeconfig=here.kubeconfig,
                program=own.programs / "kubectl",
                image=_option(config, "image") or PRODUCT,
                node=here.node,
                node_ip=here.node_ip,
            )
        finally:
            system.enter(f"/proc/self/fd/{before.fileno()}", system.NEW_NET)
            if not _option(config, "cluster"):
                own.stop()


def _foreign(kubeconfig: Path, image: str, address: str | None) -> Access:
    access = Access(kubeconfig=kubeconfig, program="kubectl", image=image, node="", node_ip=address or local_address(kubeconfig))
    nodes = access.get("default", "nodes")["items"]
    return dataclasses.replace(access, node=nodes[0]["metadata"]["name"])


def _uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Let what the harness says be seen while it works."""
    manager = config.pluginmanager.getplugin("capturemanager")
    return manager.global_and_fixture_disabled() if manager else nullcontext()


@pytest.fixture(scope="session")
def s3(cluster: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server on this machine, at an address that pods reach."""
    with SeaweedServer(tmp_path_factory.mktemp("s3"), host=cluster.node_ip) as server:
        yield S3(server)


@pytest.fixture
def namespace(cluster: Access, s3: S3) -> Iterator[str]:
    """Name of a fresh namespace that enforces Pod Security "restricted"; it is deleted without waiting."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    cluster.apply("default", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    cluster.apply(name, s3.secret())
    cluster.wait_for(
        "the default service account", lambda: cluster.run_kubectl("-n", name, "get", "sa", "default").returncode == 0
    )
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def gpus(cluster: Access) -> Iterator[Callable[[int], None]]:
    """A function that gives the node a number of nvidia.com/gpu that are not there: enough for the scheduler."""
    path = "/status/capacity/nvidia.com~1gpu"

    def patch(operation: dict[str, str]) -> None:
        change = json.dumps([operation | {"path": path}])
        cluster.kubectl("patch", "node", cluster.node, "--subresource=status", "--type=json", f"--patch={change}")

    def pretend(count: int) -> None:
        patch({"op": "add", "value": str(count)})
        cluster.wait_for("the node's GPUs", lambda: allocatable() == str(count))

    def allocatable() -> str | None:
        found: str | None = cluster.get("default", "node", cluster.node)["status"]["allocatable"].get("nvidia.com/gpu")
        return found

    pretend(0)
    yield pretend
    patch({"op": "remove"})


@pytest.fixture
def installed(cluster: Access, namespace: str, tmp_path: Path) -> str:
    """The namespace, where the service account of Kubeflow Pipelines has the rights that the overlay gives it and no others."""
    shutil.copytree(K8S, tmp_path / "k8s")
    chosen = tmp_path / "k8s/overlays/standalone/kustomization.yaml"
    chosen.write_text(chosen.read_text().replace("namespace: kubeflow", f"namespace: {namespace}"))
    cluster.kubectl("-n", namespace, "create", "serviceaccount", ACCOUNT)
    cluster.kubectl("apply", "--server-side", "-k", str(tmp_path / "k8s/overlays/standalone-without-monitoring"))
    return namespace


@pytest.fixture
def runner(cluster: Access, s3: S3, installed: str) -> PodRunner:
    """See above."""
    return PodRunner(cluster, s3, installed, account=ACCOUNT)


@pytest.fixture
def server(runner: PodRunner) -> Iterator[StandIn]:
    """See above."""
    with StandIn(runner) as stand_in:
        yield stand_in


@pytest.fixture
def store(s3: S3, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """See above."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"{s3.store_uri}/{namespace}")


@pytest.fixture
def drrho(server: StandIn, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`drrho pipeline ...` in a process without any way to the store: only the pods have one."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.run(
            [sys.executable, "-m", "drrho_pipelines.cli", "pipeline", *arguments],
            env=environment | {"KFP_ENDPOINT": server.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run
