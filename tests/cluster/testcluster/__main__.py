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
from collections.abc import Callable

from . import packages
from .cluster import Cluster, build_all
from .places import HERE

_USE = """
The cluster '{name}' runs. Its programs' logs: {logs}
  one command:  PYTHONPATH={here} {python} -m testcluster run {name} -- kubectl get pods --all-namespaces
  a shell:      PYTHONPATH={here} {python} -m testcluster run {name} -- bash
  by hand:      nsenter --net={network} {kubectl} --kubeconfig={kubeconfig} get nodes
  the tests:    make test-cluster ARGS="--cluster {name}"
Remove it with: make cluster-down
"""


def main(arguments: list[str]) -> int:
    """Run one command; 0, 1 if it failed, 2 where this machine cannot or the command is unknown."""
    before, command = _split(arguments)
    action = before[0] if before else ""
    name = before[1] if len(before) > 1 else "local"
    cluster = Cluster(name)
    actions: dict[str, Callable[[], None]] = {
        "build": lambda: print(build_all(cluster.progress)),
        "up": lambda: up(cluster),
        "load": lambda: cluster.load_product(build_all(cluster.progress)),
        "run": lambda: run(cluster, command or ["bash"]),
        "down": cluster.stop,
    }
    if action not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    if reason := packages.why_not():
        print(f"No test cluster on this machine: {reason}.", file=sys.stderr)
        return 2
    try:
        actions[action]()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def up(cluster: Cluster) -> None:
    """Start a cluster with everything in it and say how to use it."""
    if cluster.supervisor:
        raise RuntimeError(f"The cluster {cluster.places.name} runs already. `make cluster-down` removes it.")
    cluster.start_with_everything(build_all(cluster.progress), stay=True)
    here, kubectl = cluster.places, cluster.programs / "kubectl"
    use = {"name": here.name, "logs": here.logs, "network": cluster.network, "kubectl": kubectl, "kubeconfig": here.kubeconfig}
    print(_USE.format(**use, python=sys.executable, here=HERE))


def run(cluster: Cluster, command: list[str]) -> None:
    """Become `command` in the cluster's network."""
    if not cluster.supervisor:
        raise RuntimeError(f"The cluster {cluster.places.name} does not run. `make cluster` starts one.")
    os.environ["KUBECONFIG"] = str(cluster.places.kubeconfig)
    os.environ["PATH"] = f"{cluster.programs}:{os.environ['PATH']}"
    line = cluster.inside(*command)
    os.execvp(line[0], line)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
