"""What the tests of compiled pipelines share: parameters that make a run small, and looks at what a run left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from drrho_clip.storage import Store, open_store
from kfp_stand_in import Execution, StandIn
from pod_runner import PodRunner
from testcluster.access import S3

SMALL = {
    "dataset": "scenes",
    "data_source": "scenes",
    "data_samples": "96",
    "data_workers": "1",
    "data_heldout_fraction": "0.25",
    "train_architecture": "drrho-nano",
    "train_batch_size": "16",
    "train_samples": "96",
    "train_warmup_steps": "1",
    **{f"{step}_cpu": "50m" for step in ("data", "reference", "train", "report")},
}
"""What makes a run of any pipeline small."""
RUN = {"report_gallery": "2", "evaluate_cpu": "50m"}
STEPS = ["ingest", "reference", "train", "evaluate", "report"]


def parameters(store: Store, s3: S3, **more: str) -> list[str]:
    """Options of `drrho pipeline submit steering` for a small run in this store."""
    return study_parameters(store, s3, **(RUN | more))


def study_parameters(store: Store, s3: S3, **more: str) -> list[str]:
    """The same of a study."""
    values = SMALL | {"store": store.uri, "store_endpoint": s3.endpoint} | more
    return [word for name, value in values.items() for word in ("-p", f"{name}={value}")]


def execution_of(server: StandIn) -> Execution:
    """The newest run of the server."""
    return list(server.objects.executions.values())[-1]


def running(runner: PodRunner, execution: Execution) -> list[str]:
    """Names of the run's pods that work and are not being ended."""
    pods = runner.pods(execution)
    return [pod.metadata.name for pod in pods if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp]


def artifacts_of(s3: S3, execution: Execution) -> dict[str, bytes]:
    """What the steps left among the pipeline's artifacts, by key."""
    name = execution.spec["pipelineInfo"]["name"]
    kept = open_store(f"{s3.store_uri}/v2/artifacts/{name}/{execution.run_id}")
    return {info.key: kept.read(info.key) for info in kept.list()}


def records(log: str) -> list[dict[str, Any]]:
    """Our own lines of a step's log."""
    return [json.loads(line) for line in log.splitlines() if line.startswith('{"')]


def events(log: str, name: str) -> list[dict[str, Any]]:
    """The lines of this event in a step's log."""
    return [line for line in records(log) if line.get("event") == name]


def may_be_root(pods: Iterable[dict[str, Any]]) -> list[str]:
    """Containers, init containers included, whose pod does not forbid them to run as root; the kubelet keeps what it says."""
    found = []
    for pod in pods:
        spec = pod["spec"]
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            own = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
            if own.get("runAsNonRoot") is not True or own.get("runAsUser", 1) == 0 or own.get("privileged"):
                found.append(f"{pod['metadata']['name']}/{container['name']}")
    return found
