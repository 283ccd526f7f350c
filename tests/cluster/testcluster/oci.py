"""Images of single static programs as OCI archives, made without an engine: pause, busybox, CoreDNS, the operators."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .places import REGISTRY

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DATE = "2026-01-01T00:00:00Z"
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Single:
    """An image of one program: its name, the program's path in it and the numeric user."""

    name: str
    path: str
    user: str


SINGLES = (
    Single("pause", "/pause", "65535:65535"),
    Single("coredns", "/coredns", "0:0"),  # it binds port 53
    *(Single(name, "/manager", "65532:65532") for name in ("training-operator", "jobset", "trainer", "kueue")),
)


def image_name(name: str, tag: str) -> str:
    """Full name of one of the cluster's own images."""
    return f"{REGISTRY}/{name}:{tag}"


def write_single(single: Single, program: Path, tag: str, archive: Path) -> None:
    """Write the image of a static program."""
    _write(archive, image_name(single.name, tag), {single.path: program}, {"Entrypoint": [single.path], "User": single.user})


def write_busybox(tag: str, archive: Path) -> None:
    """Write an image with Debian's static busybox and a link for each of its commands."""
    commands = subprocess.run([str(BUSYBOX), "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = {f"/bin/{command}": "busybox" for command in commands if command != "busybox"}
    files: dict[str, Path | bytes | str] = {"/bin/busybox": BUSYBOX, "/etc/passwd": _PASSWD, "/tmp/": b"", **links}
    _write(archive, image_name("busybox", tag), files, {"Cmd": ["sh"]})


def _write(archive: Path, name: str, files: Mapping[str, Path | bytes | str], settings: dict[str, Any]) -> None:
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = blob(_layer(files), "layer.v1.tar")
    config = {
        "created": _DATE,
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [_PATH], "WorkingDir": "/", **settings},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    parts = {"config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": [layer]}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(json.dumps({"schemaVersion": 2, "mediaType": kind, **parts}).encode(), "manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": name}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", data)


def _layer(files: Mapping[str, Path | bytes | str]) -> bytes:
    """A layer: a path's content is a file of this machine, bytes, or the target of a link; a folder's path ends in /."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            if isinstance(content, str):
                link = tarfile.TarInfo(path.lstrip("/"))
                link.type, link.linkname = tarfile.SYMTYPE, content
                tar.addfile(link)
            elif path.endswith("/"):
                folder = tarfile.TarInfo(path.strip("/"))
                folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(folder)
            else:
                _add(tar, path.lstrip("/"), content if isinstance(content, bytes) else content.read_bytes(), 0o755)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
