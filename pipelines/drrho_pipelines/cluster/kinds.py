"""The API groups of operators: which are there, and which version where that matters."""

from __future__ import annotations

from collections.abc import Iterator

from drrho_clip.doctor import Finding
from drrho_components.kube import Cluster, Forbidden

TRAINER = "trainer.kubeflow.org/v1alpha1"
RUNTIME = "torch-distributed"
NO_JOB = "Without this and TrainJob only train_launcher=local works: install Kubeflow's training-operator v1.9 or Trainer 2.2."


def kinds(cluster: Cluster) -> tuple[set[str], list[Finding]]:
    """The kinds of operators that the cluster has (by plural name), and the findings about them."""
    there = {
        name
        for group in ("kubeflow.org/v1", TRAINER, "jobset.x-k8s.io/v1alpha2", "monitoring.coreos.com/v1")
        for name in cluster.resources(group)
    }
    kueue = _kueue(cluster)
    there |= cluster.resources(kueue) if kueue else set()
    return there, [*_jobs(cluster, there), _queueing(kueue), *_prometheus(cluster, there)]


def _jobs(cluster: Cluster, there: set[str]) -> Iterator[Finding]:
    none = not {"pytorchjobs", "trainjobs"} & there
    missing = False if none else None
    if "pytorchjobs" in there:
        yield Finding("PyTorchJob", True, "kubeflow.org/v1: train_launcher=pytorchjob works")
    else:
        fix = NO_JOB if none else "Use train_launcher=trainjob, or install Kubeflow's training-operator v1.9."
        yield Finding("PyTorchJob", missing, "the cluster does not know it (kubeflow.org/v1)", fix)
    if "trainjobs" not in there:
        fix = "Use train_launcher=pytorchjob, or install Kubeflow's Trainer 2.2 or newer."
        yield Finding("TrainJob", missing, f"the cluster does not know it ({TRAINER})", "" if none else fix)
        return
    lacking = None if "pytorchjobs" in there else False
    yield _trainer_version(cluster, lacking)
    yield _runtime(cluster, lacking)
    if "jobsets" not in there:
        yield Finding("JobSet", lacking, "TrainJobs are made of JobSets, and the cluster does not know them", "Install JobSet.")
    else:
        yield Finding("JobSet", True, "jobset.x-k8s.io/v1alpha2")


def _trainer_version(cluster: Cluster, lacking: bool | None) -> Finding:
    """The version is not written anywhere; the field `runtimePatches` came with 2.2 and is what the launcher fills."""
    try:
        schema = cluster.find(f"/openapi/v3/apis/{TRAINER}") or {}
    except Forbidden:
        return Finding("TrainJob", None, f"{TRAINER}, version not known: its schema may not be read")
    if "runtimePatches" not in str(schema):
        return Finding(
            "TrainJob", lacking, f"{TRAINER}, older than 2.2: it has no runtimePatches", "Install Trainer 2.2 or newer."
        )
    return Finding("TrainJob", True, f"{TRAINER}, 2.2 or newer: train_launcher=trainjob works")


def _runtime(cluster: Cluster, lacking: bool | None) -> Finding:
    try:
        found = cluster.find(f"/apis/{TRAINER}/clustertrainingruntimes/{RUNTIME}")
    except Forbidden:
        return Finding("runtime", None, f"you may not see whether the ClusterTrainingRuntime '{RUNTIME}' is there")
    if found is None:
        return Finding("runtime", lacking, f"there is no ClusterTrainingRuntime '{RUNTIME}'", "Install the Trainer's runtimes.")
    return Finding("runtime", True, f"ClusterTrainingRuntime '{RUNTIME}'")


def _kueue(cluster: Cluster) -> str:
    """The group version of Kueue that the server prefers, empty without Kueue."""
    group = cluster.find("/apis/kueue.x-k8s.io")
    return str(group["preferredVersion"]["groupVersion"]) if group else ""


def _queueing(version: str) -> Finding:
    if not version:
        return Finding("Kueue", None, "not installed; only queues need it")
    return Finding("Kueue", True, version)


def _prometheus(cluster: Cluster, there: set[str]) -> Iterator[Finding]:
    if "podmonitors" not in there:
        fix = "For metrics install the Prometheus operator; until then apply the overlay whose name ends in -without-monitoring."
        yield Finding("Prometheus", None, "the cluster does not know PodMonitor (monitoring.coreos.com/v1)", fix)
        return
    path = f"/apis/monitoring.coreos.com/v1/namespaces/{cluster.namespace}/podmonitors/drrho-clip"
    try:
        found = cluster.find(path)
    except Forbidden:
        yield Finding("Prometheus", None, "its operator is there; you may not see whether our PodMonitor is")
        return
    if found is None:
        fix = "Run `kubectl apply -k` on the overlay, or on k8s/monitoring."
        yield Finding("Prometheus", None, f"its operator is there, our PodMonitor is not in {cluster.namespace}", fix)
    else:
        yield Finding("Prometheus", True, "its operator and our PodMonitor")
