"""The defaults that a namespace keeps for its runs."""

from __future__ import annotations

from drrho_clip.errors import ConfigError
from drrho_components.kube import Cluster, connect
from drrho_pipelines.pods import CONFIG_MAP


def config_map(cluster: Cluster) -> dict[str, str] | None:
    """What the namespace's ConfigMap of defaults holds; None where there is none."""
    found = cluster.find(f"/api/v1/namespaces/{cluster.namespace}/configmaps/{CONFIG_MAP}")
    return None if found is None else found.get("data") or {}


def defaults_of(namespace: str) -> dict[str, str]:
    """The same of a namespace of the kubeconfig's cluster; ConfigError where it has none."""
    found = config_map(connect(namespace=namespace))
    if found is None:
        fix = "Run `kubectl apply -k` on an overlay of k8s/overlays, or give --image."
        raise ConfigError(f"There is no ConfigMap '{CONFIG_MAP}' in the namespace '{namespace}'", fix=fix)
    return found
