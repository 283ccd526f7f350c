"""What can be known to be missing before a job is made."""

from __future__ import annotations

from drrho_clip.errors import LaunchError
from drrho_clip.observe import get_logger
from drrho_components.launch.config import JobConfig, quantity
from drrho_components.launch.kind import JobKind
from drrho_components.launch.kube import Cluster, ClusterError, Object

REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def check(cluster: Cluster, kind: JobKind, config: JobConfig, namespace: str, pod: Object | None) -> None:
    """Raise LaunchError for an absent operator, a right that is not given, a secret that is not there, or GPUs held for nothing.

    `pod` is the launcher's own.
    """
    _operator(cluster, kind)
    _rights(cluster, kind, namespace)
    _secrets(cluster, config, namespace)
    held = _held_gpus(pod, config.gpu_resource)
    if held:
        raise LaunchError(
            f"The step's own pod holds {held} {config.gpu_resource}, idle while the {kind.name} trains on others",
            fix="Set the step's gpus to 0 and the job's node_gpus to what each node needs.",
        )


def _operator(cluster: Cluster, kind: JobKind) -> None:
    try:
        known = {item["name"] for item in cluster.get(kind.api)["resources"]}
    except ClusterError as error:
        if error.status != 404:
            raise
        known = set()
    if kind.plural not in known:
        raise LaunchError(
            f"This cluster knows no {kind.name}: the resource {kind.plural}.{kind.group} ({kind.version}) is not installed",
            fix=f"Ask for {kind.operator}, or use another launcher.",
        )


def _rights(cluster: Cluster, kind: JobKind, namespace: str) -> None:
    needed = [(kind.group, kind.plural, "", verb) for verb in ("create", "get", "delete")]
    needed += [("", "pods", "", verb) for verb in ("list", "watch")] + [("", "pods", "log", "get")]
    missing = [wanted for wanted in needed if not allowed(cluster, namespace, *wanted)]
    if missing:
        words = ", ".join(f"{verb} {_resource(group, name, sub)}" for group, name, sub, verb in missing)
        raise LaunchError(
            f"The launcher's service account may not {words} in namespace '{namespace}'",
            fix="Apply the project's Role and bind it to the account that the step runs as (kubectl apply -k k8s/overlays/...).",
        )


def _secrets(cluster: Cluster, config: JobConfig, namespace: str) -> None:
    for name in (config.store_secret, config.image_pull_secret):
        if not name:
            continue
        if not allowed(cluster, namespace, "", "secrets", "", "get", name):
            get_logger().info("secret_not_checked", secret=name, reason="the launcher may not look at it")
            continue
        found = cluster.find(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        keys = {"accesskey", "secretkey"} if name == config.store_secret else set()
        if found is None or not keys <= (found.get("data") or {}).keys():
            raise LaunchError(
                f"There is no secret '{name}'" + (" with the keys accesskey and secretkey" if keys else ""),
                where=f"namespace {namespace}",
                fix="Create it, or name another in store_secret; empty where the pods' service account has a role."
                if keys
                else "Create it, or leave image_pull_secret empty.",
            )


def allowed(cluster: Cluster, namespace: str, group: str, resource: str, subresource: str, verb: str, name: str = "") -> bool:
    """Whether this process may do something."""
    wanted = {
        "namespace": namespace,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "verb": verb,
        "name": name,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    return bool(cluster.create(REVIEW, body)["status"]["allowed"])


def own_container(pod: Object) -> Object:
    """The container of the step in its pod."""
    containers: list[Object] = pod["spec"]["containers"]
    return next((item for item in containers if item["name"] == "main"), containers[0])


def _held_gpus(pod: Object | None, resource: str) -> int:
    limits = own_container(pod).get("resources", {}).get("limits", {}) if pod else {}
    return int(quantity(str(limits.get(resource, "0"))))


def _resource(group: str, name: str, subresource: str) -> str:
    return f"{name}{'/' + subresource if subresource else ''}{'.' + group if group else ''}"
