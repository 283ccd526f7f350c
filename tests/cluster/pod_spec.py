"""A step's pod, made of what the compiled pipeline says about it: container, resources, and settings for Kubernetes.

A setting that nobody has written here yet is refused, so that none is left out silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LAUNCHER = (Path(__file__).parent / "pod_launcher.py").read_text()
SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
FIELDS = {"KFP_POD_NAME": "metadata.name", "KFP_POD_UID": "metadata.uid", "NAMESPACE": "metadata.namespace"}
FOLDERS = ("/minio", "/s3", "/gcs", "/.local", "/.cache", "/.config")
"""Folders that the real server gives every step to write to."""

Lookup = Callable[[Mapping[str, Any]], Any]
"""The value of a parameter that a setting names ({"componentInputParameter": ...}, {"runtimeValue": ...}, ...)."""


def make_pod(
    name: str, labels: Mapping[str, str], owner: Mapping[str, Any], account: str, container: Mapping[str, Any], secret: str
) -> dict[str, Any]:
    """A pod for one attempt of a step: `container` has image, env and resources, and the launcher's task in `task`."""
    main = {
        "name": "main",
        "image": container["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", LAUNCHER, json.dumps(container["task"])],
        "env": [
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in FIELDS.items()),
            *container["env"],
        ],
        "resources": container["resources"],
        "securityContext": dict(SECURITY),
        "volumeMounts": [{"name": "launcher-keys", "mountPath": "/kfp-launcher/keys", "readOnly": True}],
    }
    volumes: list[dict[str, Any]] = [{"name": "launcher-keys", "secret": {"secretName": secret}}]
    for number, folder in enumerate(FOLDERS):
        volumes.append({"name": f"folder-{number}", "emptyDir": {}})
        main["volumeMounts"].append({"name": f"folder-{number}", "mountPath": folder})
    spec = {
        "restartPolicy": "Never",
        "serviceAccountName": account,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [main],
        "volumes": volumes,
    }
    metadata = {"name": name, "labels": dict(labels), "annotations": {}, "ownerReferences": [dict(owner)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def resources(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Requests and limits of a container whose placeholders are replaced; a count of GPUs that is empty asks for none."""
    found: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for kind in ("cpu", "memory"):
        for part, key in (("Request", "requests"), ("Limit", "limits")):
            value = asked.get(f"resource{kind.capitalize()}{part}")
            if value:
                found[key][kind] = str(value)
    accelerator = asked.get("accelerator", {})
    if accelerator.get("resourceCount"):
        found["limits"][accelerator["resourceType"]] = str(accelerator["resourceCount"])
    return {key: values for key, values in found.items() if values}


def apply_settings(pod: dict[str, Any], settings: Mapping[str, Any], lookup: Lookup) -> None:
    """Put a step's settings for Kubernetes into its pod."""
    for name, value in settings.items():
        if name not in SETTINGS:
            raise NotImplementedError(f"the pod runner does not know the setting '{name}' of a compiled pipeline")
        SETTINGS[name](pod, value, lookup)


def _secret_as_env(pod: dict[str, Any], secrets: list[dict[str, Any]], lookup: Lookup) -> None:
    for secret in secrets:
        name = _named(secret, "secretName", lookup)
        for key in secret["keyToEnv"]:
            source = {"name": name, "key": key["secretKey"], "optional": secret.get("optional", False)}
            _main(pod)["env"].append({"name": key["envVar"], "valueFrom": {"secretKeyRef": source}})


def _config_map_as_env(pod: dict[str, Any], maps: list[dict[str, Any]], lookup: Lookup) -> None:
    for item in maps:
        name = _named(item, "configMapName", lookup)
        for key in item["keyToEnv"]:
            source = {"name": name, "key": key["configMapKey"], "optional": item.get("optional", False)}
            _main(pod)["env"].append({"name": key["envVar"], "valueFrom": {"configMapKeyRef": source}})


def _secret_as_volume(pod: dict[str, Any], secrets: list[dict[str, Any]], lookup: Lookup) -> None:
    for secret in secrets:
        name = _named(secret, "secretName", lookup)
        _mount(pod, secret["mountPath"], {"secret": {"secretName": name, "optional": secret.get("optional", False)}})


def _pvc_mount(pod: dict[str, Any], mounts: list[dict[str, Any]], lookup: Lookup) -> None:
    for mount in mounts:
        name = mount.get("constant") or lookup(mount.get("pvcNameParameter") or mount)
        if name:
            _mount(pod, mount["mountPath"], {"persistentVolumeClaim": {"claimName": name}})


def _empty_dir_mounts(pod: dict[str, Any], mounts: list[dict[str, Any]], lookup: Lookup) -> None:
    for mount in mounts:
        volume = {key: mount[key] for key in ("medium", "sizeLimit") if mount.get(key)}
        _mount(pod, mount["mountPath"], {"emptyDir": volume})


def _field_path_as_env(pod: dict[str, Any], fields: list[dict[str, Any]], lookup: Lookup) -> None:
    for field in fields:
        _main(pod)["env"].append({"name": field["name"], "valueFrom": {"fieldRef": {"fieldPath": field["fieldPath"]}}})


def _node_selector(pod: dict[str, Any], selector: dict[str, Any], lookup: Lookup) -> None:
    labels = _given(selector, "nodeSelectorJson", lookup, selector.get("labels"))
    pod["spec"]["nodeSelector"] = {**pod["spec"].get("nodeSelector", {}), **(labels or {})}


def _tolerations(pod: dict[str, Any], tolerations: list[dict[str, Any]], lookup: Lookup) -> None:
    for toleration in tolerations:
        found = _given(toleration, "tolerationJson", lookup, toleration)
        pod["spec"].setdefault("tolerations", []).extend(found if isinstance(found, list) else [found] if found else [])


def _image_pull_secret(pod: dict[str, Any], secrets: list[dict[str, Any]], lookup: Lookup) -> None:
    names = [_named(secret, "secretName", lookup) for secret in secrets]
    pod["spec"]["imagePullSecrets"] = [{"name": name} for name in names if name]


def _pod_metadata(pod: dict[str, Any], metadata: dict[str, Any], lookup: Lookup) -> None:
    for kind in ("labels", "annotations"):
        pod["metadata"][kind] |= metadata.get(kind, {})


def _security_context(pod: dict[str, Any], context: dict[str, Any], lookup: Lookup) -> None:
    numbers = {key: int(context[key]) for key in ("runAsUser", "runAsGroup") if key in context}
    flags = {key: context[key] for key in ("runAsNonRoot",) if key in context}
    _main(pod)["securityContext"] |= {**numbers, **flags}


def _image_pull_policy(pod: dict[str, Any], policy: str, lookup: Lookup) -> None:
    _main(pod)["imagePullPolicy"] = policy


def _active_deadline(pod: dict[str, Any], seconds: str, lookup: Lookup) -> None:
    pod["spec"]["activeDeadlineSeconds"] = int(seconds)


SETTINGS: Mapping[str, Callable[[dict[str, Any], Any, Lookup], None]] = {
    "secretAsEnv": _secret_as_env,
    "secretAsVolume": _secret_as_volume,
    "configMapAsEnv": _config_map_as_env,
    "pvcMount": _pvc_mount,
    "emptyDirMounts": _empty_dir_mounts,
    "fieldPathAsEnv": _field_path_as_env,
    "nodeSelector": _node_selector,
    "tolerations": _tolerations,
    "imagePullSecret": _image_pull_secret,
    "podMetadata": _pod_metadata,
    "securityContext": _security_context,
    "imagePullPolicy": _image_pull_policy,
    "activeDeadlineSeconds": _active_deadline,
}


def _main(pod: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


def _mount(pod: dict[str, Any], path: str, volume: dict[str, Any]) -> None:
    name = f"mount-{len(pod['spec']['volumes'])}"
    pod["spec"]["volumes"].append({"name": name, **volume})
    _main(pod)["volumeMounts"].append({"name": name, "mountPath": path})


def _named(setting: Mapping[str, Any], key: str, lookup: Lookup) -> str:
    """The name that a setting gives, as a constant or through a parameter."""
    parameter = setting.get(f"{key}Parameter")
    return str(lookup(parameter)) if parameter else str(setting[key])


def _given(setting: Mapping[str, Any], key: str, lookup: Lookup, otherwise: Any) -> Any:
    """What a parameter with JSON says, else what stands there."""
    if key not in setting:
        return otherwise
    value = lookup(setting[key])
    return json.loads(value) if isinstance(value, str) and value else value
