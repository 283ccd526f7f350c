"""The few calls of Linux that Python lacks (namespaces, mounts, death with the parent), and the control groups of a cluster."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
_BIND, _RECURSIVE, _PRIVATE, _SHARED, _SLAVE = 0x1000, 0x4000, 1 << 18, 1 << 20, 1 << 19
_PR_SET_PDEATHSIG = 1
_DETACH = 2
CGROUPS = Path("/sys/fs/cgroup")


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones (of processes: for the children only)."""
    _call("unshare", flags)


def enter(namespace: str | Path, kind: int) -> None:
    """Move this thread, and what it starts from now on, into a namespace: a file such as /proc/1/ns/net."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", descriptor, kind)
    finally:
        os.close(descriptor)


def mount(source: str | Path, target: str | Path, kind: str = "none", flags: int = 0) -> None:
    """Mount a file system of `kind`."""
    _call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), flags, None)


def bind(source: Path, target: Path) -> None:
    """Show the file or folder `source` at `target` too."""
    mount(source, target, flags=_BIND)


def hide_mounts() -> None:
    """Let no mount that is made from now on be seen outside, and let programs inside see each other's."""
    mount("none", "/", flags=_RECURSIVE | _SLAVE)
    mount("none", "/", flags=_RECURSIVE | _SHARED)


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything below it, also where a program that was killed left mounts there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for target in sorted((line.split()[4] for line in lines), key=len, reverse=True):
        if Path(target).is_relative_to(folder):
            _call("umount2", os.fsencode(target), _DETACH)
    shutil.rmtree(folder)


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends, however it does."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)


def cgroup_folders(name: str) -> list[Path]:
    """Folders of the cluster's control group: one in the unified hierarchy, or one in each controller's of version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / name]
    hierarchies = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
    return [CGROUPS / hierarchy / name for hierarchy in hierarchies if (CGROUPS / hierarchy).is_dir()]


def make_cgroups(name: str) -> None:
    """Make the parent of every pod's control group."""
    for folder in cgroup_folders(name):
        folder.mkdir(exist_ok=True)
        if folder.parent.name == "cpuset":  # an empty set takes no process
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (folder / setting).write_text((folder.parent / setting).read_text())


def cgroup_processes(name: str) -> set[int]:
    """Ids of the processes in the cluster's control groups."""
    return {
        int(line)
        for folder in cgroup_folders(name)
        for group in _groups(folder)
        for line in (group / "cgroup.procs").read_text().split()
    }


def remove_cgroups(name: str, seconds: float = 15.0) -> None:
    """Remove the cluster's control groups once their processes, killed already, are gone."""
    deadline = time.monotonic() + seconds
    while True:
        for folder in cgroup_folders(name):
            for group in _groups(folder):
                with contextlib.suppress(OSError):
                    group.rmdir()
        if not any(folder.exists() for folder in cgroup_folders(name)) or time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _groups(folder: Path) -> Iterator[Path]:
    """Folders from the inside out."""
    for path, _, _ in os.walk(folder, topdown=False):
        yield Path(path)
