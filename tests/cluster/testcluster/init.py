"""Process 1 of a cluster: sets up its network and mounts, starts its programs and reaps what they leave.

It ends when one of them ends, and everything in the cluster with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import commands, system
from .places import Places

Started = dict[int, tuple[str, "subprocess.Popen[bytes]"]]
# kubelet wants these kernel settings and would change them for the whole machine: it is shown files that say so already.
_KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def run(places: Places, programs: Path) -> int:
    """Be the cluster until one of its programs ends; the folder `programs` holds those that were built."""
    system.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    system.unshare(system.NEW_MOUNT | system.NEW_NET | system.NEW_UTS | system.NEW_IPC)
    socket.sethostname(places.node)
    _mount(places)
    _connect(places)
    os.environ["PATH"] = f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"
    started: Started = {}
    for command in (commands.containerd, commands.etcd, commands.api_server):
        _start(places, command(places), started)
    _wait_for_api(places, started)
    for command in (commands.controller_manager, commands.scheduler, commands.proxy, commands.kubelet):
        _start(places, command(places), started)
    while True:
        _reap(started, 0)


def _mount(places: Places) -> None:
    """Private folders at the usual places, so that the programs' defaults hold and nothing of theirs is left behind."""
    system.hide_mounts()
    system.mount("proc", "/proc", "proc")
    folders = {
        places.state / "containerd": "/var/lib/containerd",
        places.socket.parent: "/run/containerd",
        places.run / "kubelet": "/var/lib/kubelet",
        places.run / "pods-log": "/var/log/pods",
        places.run / "containers-log": "/var/log/containers",
        places.run / "cni-ipam": "/run/cni-ipam",
        places.run / "cni": "/var/lib/cni",
        places.run / "netns": "/run/netns",
        places.run / "volumes": "/tmp/hostpath_pv",
    }
    for source, target in folders.items():
        source.mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        system.bind(source, Path(target))
    for number, (name, value) in enumerate(_KERNEL.items()):
        file = places.run / f"kernel-{number}"
        file.write_text(f"{value}\n")
        system.bind(file, Path("/proc/sys") / name)


def _connect(places: Places) -> None:
    """A network of its own whose only device leads back into it; nothing outside can be reached."""
    for line in (
        "link set lo up",
        "link add node0 type veth peer name node0p",  # not every kernel has the dummy driver
        "link set node0p up",
        f"addr add {places.node_ip}/24 dev node0",
        "link set node0 up",
        # Else connect() to a service's address finds no route before kube-proxy's rules are asked.
        f"route add {places.service_range} dev node0",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    for setting, value in {"ipv4/ip_forward": 1, "bridge/bridge-nf-call-iptables": 1, "ipv4/conf/all/rp_filter": 0}.items():
        Path("/proc/sys/net", setting).write_text(f"{value}\n")
    routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
    assert "default" not in routes, f"the cluster must have no route out: {routes}"


def _start(places: Places, command: list[str], started: Started) -> None:
    with (places.logs / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    started[process.pid] = (command[0], process)


def _wait_for_api(places: Places, started: Started) -> None:
    command = ["kubectl", f"--kubeconfig={places.kubeconfig}", "get", "--raw=/readyz"]
    while not places.socket.exists() or subprocess.run(command, capture_output=True).returncode:
        _reap(started, os.WNOHANG)
        time.sleep(0.1)


def _reap(started: Started, options: int) -> None:
    """Collect one ended process, ours or an orphan; the end of a program ends the cluster."""
    process, status = os.waitpid(-1, options)
    if process in started:
        sys.exit(f"{started[process][0]} ended with {os.waitstatus_to_exitcode(status)}; its log says why")
