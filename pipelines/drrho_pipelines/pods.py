"""What the pod of a step looks like: resources, placement, credentials, security, retries.

kfp passes on to a loop or a condition only those parameters that a task of it has registered, and the setters of resources do
not register theirs: `dress` does. Without it the server finds no value there, and the step fails before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kfp import kubernetes

from drrho_components.steps import SECRET_KEYS
from drrho_pipelines.step import Step

POD_PARAMETERS: Mapping[str, tuple[type, Any]] = {
    "store_secret": (str, "mlpipeline-minio-artifact"),
    "gpu_resource": (str, "nvidia.com/gpu"),
    "gpu_node_selector": (dict, {}),
    "gpu_tolerations": (list, []),
    "image_pull_secret": (str, ""),
    "node_selector": (dict, {}),
    "tolerations": (list, []),
}
"""Parameters that every pipeline has for its pods. Those that begin with gpu_ are for the steps that may use GPUs (resources
with `gpus`), whether they ask for one or not; node_selector and tolerations for the others."""

RESOURCES: Mapping[str, str] = {"cpu": "1", "memory": "4Gi", "gpus": "0"}
"""Per step, as strings: the server takes numbers for nothing."""
SMALL: Mapping[str, str] = {"cpu": "100m", "memory": "1Gi"}
"""For steps without resources of their own."""

CONFIG_MAP = "drrho-clip"
"""Name of the namespace's defaults."""
DEFAULTS = {"store_endpoint": "AWS_ENDPOINT_URL", "pushgateway": "PROMETHEUS_PUSHGATEWAY"}
"""Those of its keys that change no result, and the environment variables that they become."""

LABELS = {"app.kubernetes.io/name": "drrho-clip"}
ANNOTATIONS = {"sidecar.istio.io/inject": "false"}
"""A sidecar would outlive the step, and nothing here is called from outside."""

RETRIES, BACKOFF, FACTOR, LONGEST = 2, "10s", 2.0, "300s"
"""For a lost node or connection: every step finds what is done. A wrong setting costs half a minute more for it."""


def dress(task: Any, step: Step, value: Callable[[str], Any]) -> None:
    """Give `task` the pod of `step`; `value` gives a pipeline parameter by its name."""
    _resources(task, step, value)
    _placement(task, "gpu_" if "gpus" in step.resources else "", value)
    kubernetes.use_secret_as_env(task, value("store_secret"), SECRET_KEYS, optional=True)
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, DEFAULTS, optional=True)
    kubernetes.set_image_pull_secrets(task, [value("image_pull_secret")])  # the kubelet passes over an empty name
    kubernetes.set_security_context(task, run_as_non_root=True)  # the image's user has a number
    for key, text in LABELS.items():
        kubernetes.add_pod_label(task, key, text)
    for key, text in ANNOTATIONS.items():
        kubernetes.add_pod_annotation(task, key, text)
    if step.shared_memory:  # a pod's own has 64 MB; this one ends at the memory limit of the step
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory")
    if step.seconds:
        kubernetes.set_timeout(task, step.seconds)
    task.set_retry(RETRIES, BACKOFF, FACTOR, LONGEST)
    task.set_caching_options(step.cached)


def _resources(task: Any, step: Step, value: Callable[[str], Any]) -> None:
    if not step.resources:
        task.set_cpu_request(SMALL["cpu"]).set_memory_limit(SMALL["memory"])
        return
    asked = {resource: value(f"{step.prefix}_{resource}") for resource in step.resources}
    task.set_cpu_request(asked["cpu"]).set_memory_limit(asked["memory"])
    channels = list(asked.values())
    if "gpus" in asked:
        kind = value("gpu_resource")
        task.set_accelerator_type(kind).set_accelerator_limit(asked["gpus"])
        channels.append(kind)
    task.register_pipeline_channels(channels)


def _placement(task: Any, prefix: str, value: Callable[[str], Any]) -> None:
    kubernetes.add_node_selector_json(task, value(f"{prefix}node_selector"))
    kubernetes.add_toleration_json(task, value(f"{prefix}tolerations"))
