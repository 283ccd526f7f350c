"""Command lines of the cluster's programs."""

from __future__ import annotations

from pathlib import Path

from .places import Places


def containerd(places: Places) -> list[str]:
    """The container runtime."""
    return ["containerd", "--config", str(places.settings / "containerd.toml")]


def etcd(places: Places) -> list[str]:
    """The API server's database; a test's data need not survive a power cut."""
    keys, peer = places.keys, "http://127.0.0.1:2380"
    return [
        *("etcd", f"--name={places.name}", f"--data-dir={places.run / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn"),
        *("--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster={places.name}={peer}"),
        *("--client-cert-auth", f"--trusted-ca-file={keys / 'etcd-ca.crt'}"),
        *(f"--cert-file={keys / 'etcd.crt'}", f"--key-file={keys / 'etcd.key'}"),
    ]


def api_server(places: Places) -> list[str]:
    """The API server, with the authorization and admission of a real cluster."""
    keys = places.keys
    return [
        *("kube-apiserver", "--etcd-servers=https://127.0.0.1:2379", f"--etcd-cafile={keys / 'etcd-ca.crt'}"),
        *(f"--etcd-certfile={keys / 'etcd-client.crt'}", f"--etcd-keyfile={keys / 'etcd-client.key'}"),
        *(f"--advertise-address={places.node_ip}", "--bind-address=0.0.0.0", f"--secure-port={places.api_port}"),
        f"--service-cluster-ip-range={places.service_range}",
        *(f"--tls-cert-file={keys / 'apiserver.crt'}", f"--tls-private-key-file={keys / 'apiserver.key'}"),
        f"--client-ca-file={keys / 'ca.crt'}",
        f"--kubelet-client-certificate={keys / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={keys / 'apiserver-kubelet-client.key'}",
        *(f"--kubelet-certificate-authority={keys / 'ca.crt'}", "--kubelet-preferred-address-types=InternalIP"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={keys / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
        f"--requestheader-client-ca-file={keys / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        *("--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group"),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={keys / 'front-proxy-client.key'}",
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction,PodSecurity"),
        *("--allow-privileged=true", "--profiling=false"),
    ]


def controller_manager(places: Places) -> list[str]:
    """The controllers, with Kubernetes' own host-path provisioner for volumes."""
    keys, kubeconfig = places.keys, places.settings / "controller-manager.kubeconfig"
    return [
        *("kube-controller-manager", *_identity(kubeconfig), "--use-service-account-credentials=true"),
        f"--service-account-private-key-file={keys / 'service-accounts.key'}",
        *(f"--root-ca-file={keys / 'ca.crt'}", f"--client-ca-file={keys / 'ca.crt'}"),
        *(f"--cluster-signing-cert-file={keys / 'ca.crt'}", f"--cluster-signing-key-file={keys / 'ca.key'}"),
        f"--requestheader-client-ca-file={keys / 'front-proxy-ca.crt'}",
        *(f"--service-cluster-ip-range={places.service_range}", "--allocate-node-cidrs=false"),
        *("--enable-hostpath-provisioner=true", "--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"),
    ]


def scheduler(places: Places) -> list[str]:
    """The scheduler."""
    identity = _identity(places.settings / "scheduler.kubeconfig")
    return ["kube-scheduler", *identity, "--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"]


def proxy(places: Places) -> list[str]:
    """The program that makes services' addresses work."""
    return ["kube-proxy", f"--config={places.settings / 'kube-proxy.yaml'}"]


def kubelet(places: Places) -> list[str]:
    """The node's agent."""
    return [
        *("kubelet", f"--config={places.settings / 'kubelet.yaml'}", f"--kubeconfig={places.settings / 'kubelet.kubeconfig'}"),
        *("--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki"),
        *(f"--hostname-override={places.node}", f"--node-ip={places.node_ip}"),
    ]


def _identity(kubeconfig: Path) -> list[str]:
    return [f"--{prefix}kubeconfig={kubeconfig}" for prefix in ("", "authentication-", "authorization-")]
