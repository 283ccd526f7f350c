"""The cluster as such: its node, what it admits, and that nothing outside can be reached."""

from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path

import kubernetes
import pytest

from drrho_clip.storage import open_store
from testcluster import packages
from testcluster.access import S3, Access
from testcluster.pods import container, pod, pod_spec


def test_node_is_ready(cluster: Access):
    node = cluster.get("default", "node", cluster.node)
    ready = [item["status"] for item in node["status"]["conditions"] if item["type"] == "Ready"]
    assert ready == ["True"]


def test_python_client_reaches_the_api(cluster: Access):
    found = kubernetes.client.CoreV1Api(cluster.api()).list_node()
    assert cluster.node in [item.metadata.name for item in found.items]


def test_product_runs_as_a_numeric_user_where_pods_are_restricted(cluster: Access, namespace: str):
    command = ["sh", "-c", "id -u && drrho version"]
    cluster.apply(namespace, pod("version", pod_spec(container("main", cluster.image, command))))
    found = cluster.wait_for_pod(namespace, "version")
    log = cluster.logs(namespace, "version")
    assert found["status"]["phase"] == "Succeeded", log
    assert log.split() == ["10001", importlib.metadata.version("drrho-clip")]


def test_pod_that_is_not_restricted_is_refused(cluster: Access, namespace: str):
    spec = pod_spec(container("main", cluster.image, ["true"]) | {"securityContext": {"privileged": True}})
    with pytest.raises(RuntimeError, match='violates PodSecurity "restricted'):
        cluster.apply(namespace, pod("privileged", spec))


def test_pods_find_each_other_by_name(cluster: Access, namespace: str):
    serve = container("main", cluster.image, ["python3", "-m", "http.server", "8000", "--directory", "/etc"])
    server = pod("server", pod_spec(serve | {"readinessProbe": {"httpGet": {"path": "/hostname", "port": 8000}}}))
    server["metadata"]["labels"] = {"app": "server"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    cluster.apply(namespace, server, service)
    cluster.wait_for_condition(namespace, "pod", "server", "Ready")
    ask = "import urllib.request as r; print(r.urlopen('http://server/hostname', timeout=20).read().decode())"
    cluster.apply(namespace, pod("client", pod_spec(container("main", cluster.image, ["python3", "-c", ask]))))
    cluster.wait_for_pod(namespace, "client")
    assert cluster.logs(namespace, "client").strip() == "server"


def test_container_beyond_its_memory_is_killed_and_the_pod_says_so(cluster: Access, namespace: str):
    take = ["python3", "-c", "x = bytearray(10**9); print(len(x), flush=True)"]
    limits = {"resources": {"limits": {"memory": "64Mi"}}}
    cluster.apply(namespace, pod("greedy", pod_spec(container("main", cluster.image, take, **limits))))
    found = cluster.wait_for_pod(namespace, "greedy")
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (found["status"]["phase"], ended["reason"], ended["exitCode"]) == ("Failed", "OOMKilled", 137)


def test_pods_reach_the_store_of_the_tests(cluster: Access, namespace: str, s3: S3, monkeypatch: pytest.MonkeyPatch):
    """At the same address, with the keys of the Secret."""
    keys = {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "mlpipeline-minio-artifact", "key": key}}}
        for name, key in keys.items()
    ]
    plain = [{"name": "AWS_ENDPOINT_URL", "value": s3.endpoint}, {"name": "AWS_REGION", "value": "us-east-1"}]
    write = f"from drrho_clip.storage import open_store; open_store('{s3.store_uri}/{namespace}').write('note', b'from a pod')"
    main = container("main", cluster.image, ["python3", "-c", write], env=[*secret, *plain])
    cluster.apply(namespace, pod("writer", pod_spec(main)))
    found = cluster.wait_for_pod(namespace, "writer")
    assert found["status"]["phase"] == "Succeeded", cluster.logs(namespace, "writer")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    assert open_store(f"{s3.store_uri}/{namespace}").read("note") == b"from a pod"


@pytest.mark.parametrize("address", ["198.51.100.1", "169.254.169.254"])
def test_no_address_outside_is_reached(cluster: Access, request, address: str):
    """From the tests' own process, which is inside."""
    if request.config.getoption("kubeconfig", None):
        pytest.skip("another cluster's network is its own")
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection((address, 443), timeout=5)


def test_disk_without_room_is_said_before_anything_is_built(tmp_path: Path):
    packages.check_room(tmp_path, 0)
    with pytest.raises(RuntimeError, match=r"needs 1000000 GB more on the disk of .*, which has \d+\.\d GB left"):
        packages.check_room(tmp_path, 1_000_000)
