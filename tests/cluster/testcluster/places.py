"""Where everything of the test cluster lies: the cache that several clusters share, and the folders and addresses of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "tests/cluster"
REGISTRY = "drrho.test"  # of the images that only exist here; nothing is ever pulled from it
PRODUCT = "localhost/drrho-clip:test"


def cache_folder() -> Path:
    """Folder for what takes long to make: $DRRHO_CLUSTER_CACHE, else ~/.cache/drrho-clip/cluster."""
    return Path(os.environ.get("DRRHO_CLUSTER_CACHE") or Path.home() / ".cache/drrho-clip/cluster").absolute()


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders, files and addresses of the cluster `name`; each cluster has a network of its own, so addresses may repeat."""

    name: str
    cache: Path

    node_ip: str = "10.199.0.1"
    pod_range: str = "10.199.64.0/20"
    service_range: str = "10.199.128.0/20"
    api_service_ip: str = "10.199.128.1"  # the first address of the service range
    dns_ip: str = "10.199.128.10"
    api_port: int = 6443

    @property
    def node(self) -> str:
        """Name of the only node."""
        return f"{self.name}-node"

    @property
    def cgroup(self) -> str:
        """Name of the parent of every pod's control group."""
        return f"drrho-{self.name}"

    @property
    def api_url(self) -> str:
        """Address of the API server, inside the cluster's network."""
        return f"https://{self.node_ip}:{self.api_port}"

    @property
    def run(self) -> Path:
        """What lives as long as the cluster: keys, settings, etcd's data, logs."""
        return self.cache / "run" / self.name

    @property
    def state(self) -> Path:
        """What the next cluster of this name uses again: containerd's images."""
        return self.cache / "state" / self.name

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""
        return self.run / "admin.kubeconfig"

    @property
    def keys(self) -> Path:
        """Folder of keys and certificates."""
        return self.run / "keys"

    @property
    def settings(self) -> Path:
        """Folder of the programs' settings."""
        return self.run / "settings"

    @property
    def logs(self) -> Path:
        """Folder of the programs' logs."""
        return self.run / "logs"

    @property
    def socket(self) -> Path:
        """Containerd's socket, as seen from outside the cluster's mounts."""
        return self.run / "containerd/containerd.sock"


def places(name: str) -> Places:
    """Return the places of the cluster `name` in this user's cache."""
    return Places(name=name, cache=cache_folder())
