"""Settings files of containerd, its network plugins, kubelet and kube-proxy."""

from __future__ import annotations

import json
from typing import Any

import yaml

from .places import Places

_CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  enable_selinux = false
  # Without CAP_SYS_RESOURCE nobody may lower oom_score_adj: runc dies at it with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{runc}"
"""


def write_settings(places: Places, pause: str, runc: str) -> None:
    """Write every settings file into `places.settings`; `pause` is the image that holds a pod's namespaces."""
    folder = places.settings
    (folder / "cni").mkdir(parents=True, exist_ok=True)
    (folder / "resolv.conf").write_text("")  # empty on purpose: CoreDNS and pods with dnsPolicy Default have nobody to ask
    (folder / "containerd.toml").write_text(_CONTAINERD.format(pause=pause, cni=folder / "cni", runc=runc))
    (folder / "cni/10-bridge.conflist").write_text(json.dumps(_bridge(places)))
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(places)))
    (folder / "kube-proxy.yaml").write_text(yaml.safe_dump(_proxy(places)))


def _bridge(places: Places) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": places.pod_range}]],
        "dataDir": "/run/cni-ipam",
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": places.name, "plugins": [bridge, ports]}


def _kubelet(places: Places) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(places.keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(places.keys / "kubelet.crt"),
        "tlsPrivateKeyFile": str(places.keys / "kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{places.cgroup}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [places.dns_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": str(places.settings / "resolv.conf"),
        "podLogsDir": "/var/log/pods",
        "serializeImagePulls": False,
        # No image may be collected: there is nowhere to pull it from again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
        "nodeStatusUpdateFrequency": "10s",
        "syncFrequency": "10s",
        "maxPods": 110,
    }


def _proxy(places: Places) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": places.node,
        "clientConnection": {"kubeconfig": str(places.settings / "kube-proxy.kubeconfig")},
        "clusterCIDR": places.pod_range,
        # The kernel's conntrack settings are read-only in a network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
