"""What the machine must bring: Linux, root, room on the disk, and some of Debian's packages; these are installed if missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .report import Progress

# A program or file of each package, which says that it is there.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "openssl": "openssl",
    "busybox-static": "/usr/share/doc/busybox-static",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "util-linux": "nsenter",
}
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def find(program: str) -> str | None:
    """Path of a program, also where the PATH of a user leaves out the administrator's."""
    return shutil.which(program, path=_SEARCH)


def why_not() -> str:
    """Why no cluster can run on this machine; empty if one can."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "it needs root (namespaces, mounts, control groups)"
    missing = missing_packages()
    if missing and not find("apt-get"):
        return f"it needs {', '.join(missing)}, named as in Debian, and there is no apt-get to install them"
    return ""


def check_room(folder: Path, gigabytes: int) -> None:
    """RuntimeError where the disk of `folder` has less room: a build that fills it ends far from its cause."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise RuntimeError(
            f"The test cluster needs {gigabytes} GB more on the disk of {folder}, which has {free:.1f} GB left. "
            "Make room, or let DRRHO_CLUSTER_CACHE name a folder on another disk."
        )


def missing_packages() -> list[str]:
    """Debian's packages that this machine lacks."""
    return [package for package, file in PACKAGES.items() if not (Path(file).exists() if "/" in file else find(file))]


def install_packages(progress: Progress) -> None:
    """Install what is missing; RuntimeError with apt-get's words if that fails."""
    missing = missing_packages()
    if not missing:
        return
    with progress.step(f"apt-get install {' '.join(missing)}"):
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(install, env=environment, capture_output=True, text=True)
        if result.returncode:
            subprocess.run(["apt-get", "--quiet", "update"], env=environment, capture_output=True)
            result = subprocess.run(install, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"apt-get could not install {' '.join(missing)}:\n{result.stderr[-2000:]}")
