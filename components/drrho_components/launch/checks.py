"""What can be known to be missing before a job is made."""

from __future__ import annotations

from drrho_clip.errors import LaunchError
from drrho_clip.observe import get_logger
from drrho_components.kube import Cluster, Object
from drrho_components.launch.config import JobConfig, quantity
from drrho_components.launch.kind import JobKind
from drrho_components.rights import FIX, RIGHTS, Asker
from drrho_components.steps import SECRET_KEYS


def check(cluster: Cluster, kind: JobKind, config: JobConfig, namespace: str, pod: Object | None) -> None:
    """Raise LaunchError for an absent operator, a right that is not given, a secret that is not there, or GPUs held for nothing.

    `pod` is the launcher's own.
    """
    asking = Asker(cluster, namespace)
    _operator(cluster, kind)
    _rights(asking, kind)
    _secrets(asking, config)
    held = _held_gpus(pod, config.gpu_resource)
    if held:
        raise LaunchError(
            f"The step's own pod holds {held} {config.gpu_resource}, idle while the {kind.name} trains on others",
            fix="Set the step's gpus to 0 and the job's node_gpus to what each node needs.",
        )


def _operator(cluster: Cluster, kind: JobKind) -> None:
    if kind.plural not in cluster.resources(f"{kind.group}/{kind.version}"):
        raise LaunchError(
            f"This cluster knows no {kind.name}: the resource {kind.plural}.{kind.group} ({kind.version}) is not installed",
            fix=f"Ask for {kind.operator}, or use another launcher.",
        )


def _rights(asking: Asker, kind: JobKind) -> None:
    """A missing verb is named with its resource: `delete pytorchjobs.kubeflow.org`."""
    needed = [right for right in RIGHTS if not right.optional and right.group in ("", kind.group)]
    missing = [
        f"{verb} {right.resource}{right.group and '.' + right.group}" for right in needed for verb in asking.missing(right)
    ]
    if missing:
        raise LaunchError(
            f"The launcher's service account may not {', '.join(missing)} in namespace '{asking.namespace}'", fix=FIX
        )


def _secrets(asking: Asker, config: JobConfig) -> None:
    for name in (config.store_secret, config.image_pull_secret):
        if not name:
            continue
        if not asking.may("get", "secrets", name=name):
            get_logger().info("secret_not_checked", secret=name, reason="the launcher may not look at it")
            continue
        found = asking.cluster.find(f"/api/v1/namespaces/{asking.namespace}/secrets/{name}")
        keys = SECRET_KEYS.keys() if name == config.store_secret else set()
        if found is None or not keys <= (found.get("data") or {}).keys():
            raise LaunchError(
                f"There is no secret '{name}'" + (f" with the keys {' and '.join(keys)}" if keys else ""),
                where=f"namespace {asking.namespace}",
                fix="Create it, or name another in store_secret; empty where the pods' service account has a role."
                if keys
                else "Create it, or leave image_pull_secret empty.",
            )


def own_container(pod: Object) -> Object:
    """The container of the step in its pod."""
    containers: list[Object] = pod["spec"]["containers"]
    return next((item for item in containers if item["name"] == "main"), containers[0])


def _held_gpus(pod: Object | None, resource: str) -> int:
    limits = own_container(pod).get("resources", {}).get("limits", {}) if pod else {}
    return int(quantity(str(limits.get(resource, "0"))))
