"""The test cluster from a shell: build, up, load, down, run.

python -m testcluster build                 build every program and the product's image
python -m testcluster up [NAME]             start a cluster that stays (name: local)
python -m testcluster load [NAME]           build the product's image again and give it to the cluster
python -m testcluster run [NAME] -- COMMAND run a command in the cluster's network, with KUBECONFIG and its kubectl
python -m testcluster down [NAME]           remove it
"""

from __future__ import annotations

import os
import sys

from . import packages
from .cluster import Cluster, build_all

_USE = """
The cluster '{name}' runs. Its programs' logs: {logs}
  one command:  {python} -m testcluster run {name} -- kubectl get pods --all-namespaces
  a shell:      {python} -m testcluster run {name} -- bash
  by hand:      nsenter --net={network} {kubectl} --kubeconfig={kubeconfig} get nodes
Remove it with: make cluster-down
"""


def main(arguments: list[str]) -> int:
    """Run one command; 0, or 2 where this machine cannot."""
    before, command = _split(arguments)
    action = before[0] if before else ""
    name = before[1] if len(before) > 1 else "local"
    reason = packages.why_not()
    if reason:
        print(f"No test cluster on this machine: {reason}.", file=sys.stderr)
        return 2
    cluster = Cluster(name)
    if action == "build":
        build_all(cluster.progress)
    elif action == "up":
        up(cluster)
    elif action == "load":
        cluster.load_product()
    elif action == "run":
        run(cluster, command or ["bash"])
    elif action == "down":
        cluster.stop()
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


def up(cluster: Cluster) -> None:
    """Start a cluster with everything in it and say how to use it."""
    try:
        cluster.start(stay=True)
        cluster.install_operators()
        cluster.load_product()
    except BaseException:
        cluster.stop()
        raise
    here, kubectl = cluster.places, cluster.programs / "kubectl"
    use = {"name": here.name, "logs": here.logs, "network": cluster.network, "kubectl": kubectl, "kubeconfig": here.kubeconfig}
    print(_USE.format(**use, python=sys.executable))


def run(cluster: Cluster, command: list[str]) -> None:
    """Become `command` in the cluster's network."""
    os.environ["KUBECONFIG"] = str(cluster.places.kubeconfig)
    os.environ["PATH"] = f"{cluster.programs}:{os.environ['PATH']}"
    line = cluster.inside(*command)
    os.execvp(line[0], line)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
