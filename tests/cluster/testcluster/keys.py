"""Keys, certificates and kubeconfigs of a cluster: elliptic curves by openssl, a second for all."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

from .places import Places

_SERVER, _CLIENT = "serverAuth", "clientAuth"


def make_keys(places: Places) -> None:
    """Write all keys and certificates into `places.keys`, and the kubeconfigs of the administrator and the programs."""
    folder = places.keys
    folder.mkdir(parents=True, mode=0o700)
    for authority in ("ca", "front-proxy-ca", "etcd-ca"):
        _authority(folder, authority)
    service = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    here = ["DNS:localhost", "IP:127.0.0.1"]
    node = [f"DNS:{places.node}", f"IP:{places.node_ip}"]
    certificates: list[tuple[str, str, str, str, list[str]]] = [
        ("apiserver", "ca", "/CN=kube-apiserver", _SERVER, [*service, *here, *node, f"IP:{places.api_service_ip}"]),
        ("apiserver-kubelet-client", "ca", "/O=system:masters/CN=kube-apiserver-kubelet-client", _CLIENT, []),
        ("front-proxy-client", "front-proxy-ca", "/CN=front-proxy-client", _CLIENT, []),
        ("etcd", "etcd-ca", "/CN=etcd", f"{_SERVER},{_CLIENT}", here),
        ("etcd-client", "etcd-ca", "/CN=kube-apiserver-etcd-client", _CLIENT, []),
        ("admin", "ca", "/O=system:masters/CN=admin", _CLIENT, []),
        ("controller-manager", "ca", "/CN=system:kube-controller-manager", _CLIENT, []),
        ("scheduler", "ca", "/CN=system:kube-scheduler", _CLIENT, []),
        ("kube-proxy", "ca", "/CN=system:kube-proxy", _CLIENT, []),
        ("kubelet", "ca", f"/O=system:nodes/CN=system:node:{places.node}", f"{_SERVER},{_CLIENT}", [*node, *here]),
    ]
    for name, authority, subject, usage, names in certificates:
        _certificate(folder, name, authority, subject, usage, names)
    _key(folder, "service-accounts")
    _openssl("ec", "-in", folder / "service-accounts.key", "-pubout", "-out", folder / "service-accounts.pub")
    places.settings.mkdir(parents=True, exist_ok=True)
    for user in ("controller-manager", "scheduler", "kube-proxy", "kubelet"):
        _kubeconfig(places, user, places.settings / f"{user}.kubeconfig")
    _kubeconfig(places, "admin", places.kubeconfig)


def _key(folder: Path, name: str) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")


def _authority(folder: Path, name: str) -> None:
    _key(folder, name)
    usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
    request = ("req", "-x509", "-new", "-key", folder / f"{name}.key", "-sha256", "-days", "3650", "-subj", f"/CN=test-{name}")
    _openssl(*request, *usage, "-out", folder / f"{name}.crt")


def _certificate(folder: Path, name: str, authority: str, subject: str, usage: str, names: Iterable[str]) -> None:
    _key(folder, name)
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    _openssl("req", "-new", "-key", folder / f"{name}.key", "-subj", subject, "-out", request)
    lines = ["basicConstraints=CA:FALSE", "keyUsage=critical,digitalSignature,keyEncipherment", f"extendedKeyUsage={usage}"]
    lines += [f"subjectAltName={','.join(names)}"] if names else []
    extensions.write_text("\n".join(lines) + "\n")
    signer = ("-CA", folder / f"{authority}.crt", "-CAkey", folder / f"{authority}.key", "-CAcreateserial")
    target = ("-days", "3650", "-sha256", "-extfile", extensions, "-out", folder / f"{name}.crt")
    _openssl("x509", "-req", "-in", request, *signer, *target)
    request.unlink()
    extensions.unlink()


def _kubeconfig(places: Places, user: str, path: Path) -> None:
    def encoded(name: str) -> str:
        return base64.b64encode((places.keys / name).read_bytes()).decode()

    cluster = {"server": places.api_url, "certificate-authority-data": encoded("ca.crt")}
    identity = {"client-certificate-data": encoded(f"{user}.crt"), "client-key-data": encoded(f"{user}.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": places.name,
        "clusters": [{"name": places.name, "cluster": cluster}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": places.name, "context": {"cluster": places.name, "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
