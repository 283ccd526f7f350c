"""What runs are given: accelerators, queues, and the server that starts them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from drrho_clip.doctor import Finding
from drrho_clip.errors import nearest
from drrho_components.kube import Cluster


def gpus(cluster: Cluster) -> Iterator[Finding]:
    """What nodes offer beside CPU, memory and disk; resources of vendors have a domain in their names."""
    nodes = cluster.get("/api/v1/nodes")["items"]
    totals, holders, closed = Counter[str](), Counter[str](), 0
    for node in nodes:
        offered = {name: int(count) for name, count in node["status"].get("allocatable", {}).items() if _of_a_vendor(name, count)}
        usable = not node["spec"].get("unschedulable") and _ready(node)
        closed += not usable
        if usable:
            totals.update(offered)
            holders.update(offered.keys())
    unusable = f"; {closed} not ready or cordoned" if closed else ""
    if not totals:
        detail = f"none among {len(nodes)} nodes{unusable}"
        yield Finding(
            "GPU nodes", None, detail, "Runs on CPUs work (train_gpus=0). For GPUs install the device plugin of their maker."
        )
        return
    for name, count in sorted(totals.items()):
        yield Finding("GPU nodes", True, f"{name}: {count} on {holders[name]} of {len(nodes)} nodes{unusable}")


def _of_a_vendor(name: str, count: str) -> bool:
    return "/" in name and not name.startswith(("kubernetes.io/", "hugepages-")) and count.isdigit() and int(count) > 0


def _ready(node: Mapping[str, Any]) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in node["status"].get("conditions", ()))


def queue(cluster: Cluster, name: str, there: set[str]) -> Iterator[Finding]:
    """The LocalQueue `name`, or which there are; `there` are the kinds that the cluster knows."""
    if "localqueues" not in there:
        if name:
            yield Finding(
                "queue", False, f"'{name}' cannot be: the cluster has no Kueue", "Install Kueue, or leave the queue out."
            )
        return
    group = (cluster.find("/apis/kueue.x-k8s.io") or {})["preferredVersion"]["groupVersion"]
    found = cluster.find(f"/apis/{group}/namespaces/{cluster.namespace}/localqueues") or {"items": []}
    queues = {item["metadata"]["name"]: item for item in found["items"]}
    if not name:
        detail = f"in {cluster.namespace}: {', '.join(sorted(queues)) or 'none'}"
        yield Finding("queue", True if queues else None, detail, "" if queues else "Only needed where train_queue is set.")
    elif name not in queues:
        fix = nearest(name, queues) if queues else "Make a LocalQueue, see Kueue's documents."
        yield Finding("queue", False, f"there is no LocalQueue '{name}' in {cluster.namespace}", fix)
    else:
        yield _state(name, queues[name])


def _state(name: str, queue: Mapping[str, Any]) -> Finding:
    conditions = queue.get("status", {}).get("conditions", ())
    active = next((item for item in conditions if item["type"] == "Active"), {"status": "Unknown", "message": ""})
    cluster_queue = queue["spec"].get("clusterQueue", "")
    if active["status"] != "True":
        return Finding("queue", False, f"'{name}' lets no job start: {active['message']}", f"See ClusterQueue '{cluster_queue}'.")
    return Finding("queue", True, f"'{name}', of ClusterQueue '{cluster_queue}'")


def server(host: str) -> Iterator[Finding]:
    """Whether Kubeflow Pipelines answers."""
    if not host:
        yield Finding("Kubeflow Pipelines", None, "not given, so not tried", "Name its address with --host.")
        return
    import kfp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            health = kfp.Client(host=host).get_kfp_healthz()
    except Exception as error:  # kfp has no family of errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Finding("Kubeflow Pipelines", False, f"{host} does not answer: {reason}", "Check the address, and how you log in.")
        return
    users = "several users" if getattr(health, "multi_user", False) else "one user"
    yield Finding("Kubeflow Pipelines", True, f"{getattr(health, 'tag_name', '') or 'of unknown version'} at {host}, for {users}")
