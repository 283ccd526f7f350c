"""What the tests of the launchers share: the step `train` as a process that may do no more than it needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from drrho_components.rights import RIGHTS
from testcluster.access import S3, SECRET, Access

STEP = """
import json, sys, types
from drrho_components.train import train
print(train.python_func(types.SimpleNamespace(path=sys.argv[1], metadata={}), **json.loads(sys.argv[2])))
"""
TRAINING: dict[str, Any] = {
    "dataset": "scenes",
    "method": "drrho",
    "reference": "ref",
    "architecture": "drrho-nano",
    "batch_size": 32,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "temperature": 0.1,
    "augmentation": "shift",
    "log_steps": 1,
    "checkpoint_steps": 10,
}
JOB: dict[str, Any] = {"launcher": "pytorchjob", "nodes": 2, "node_cpu": "900m", "node_memory": "2Gi", "store_secret": SECRET}
ENDLESS = 32 * 100_000
START_SECONDS = 300.0  # two pods import PyTorch beside everything else
RULES: list[dict[str, Any]] = [
    *({"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)} for right in RIGHTS),
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": [SECRET, "no-such-secret"]},
]
"""What the project's Role gives, and a look at the secrets, which it does not give."""


def make_account(cluster: Access, namespace: str, folder: Path, name: str, rules: list[dict[str, Any]]) -> Path:
    """Make a ServiceAccount with these rules and return a kubeconfig with its token."""
    meta = {"name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": meta}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    cluster.apply(
        namespace,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {**rbac, "kind": "Role", "rules": rules},
        {**rbac, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]},
    )
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl(f"--namespace={namespace}", "create", "token", name, "--duration=2h").strip()
    content["users"] = [{"name": name, "user": {"token": token}}]
    content["contexts"] = [
        {"name": name, "context": {"cluster": content["clusters"][0]["name"], "user": name, "namespace": namespace}}
    ]
    content["current-context"] = name
    path = folder / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


def pods(cluster: Access, namespace: str) -> list[dict[str, Any]]:
    """The pods of jobs in a namespace."""
    found: list[dict[str, Any]] = cluster.get(namespace, "pods", "--selector=drrho-clip/run")["items"]
    return found


def working(cluster: Access, namespace: str) -> list[str]:
    """Names of the jobs' pods that still hold what they asked for."""
    return [pod["metadata"]["name"] for pod in pods(cluster, namespace) if pod["status"]["phase"] in ("Pending", "Running")]


def jobs_of(cluster: Access, namespace: str, kind: str) -> list[dict[str, Any]]:
    """The jobs of a namespace: pytorchjob or trainjob."""
    found: list[dict[str, Any]] = cluster.get(namespace, f"{kind}s")["items"]
    return found


def create_runtime(cluster: Access) -> None:
    """Make the runtime that Kubeflow Trainer installs, unless it is there."""
    if cluster.run_kubectl("get", "clustertrainingruntime", "torch-distributed").returncode == 0:
        return
    template = {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "any"}]}}},
    }
    spec = {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {"spec": {"replicatedJobs": [{"name": "node", "template": template}]}},
    }
    meta = {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}}
    api = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime"}
    cluster.apply("default", {**api, "metadata": meta, "spec": spec})


class Step:
    """The step `train` at work; what it logs is collected as it comes."""

    def __init__(self, kubeconfig: Path, s3: S3, folder: Path, arguments: dict[str, Any]) -> None:
        environment = os.environ | s3.environment | {"KUBECONFIG": str(kubeconfig), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", STEP, str(folder / "summary.json"), json.dumps(arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        self.text = ""
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text += line
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of this event so far."""
        return [line for line in self.lines if line["event"] == name]

    def wait_for(self, what: str, look: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
        """Return what `look` gives once it is true; AssertionError with the log when time is up or the step has ended."""
        until = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s\n{self.text[-5000:]}"
            assert self.process.poll() is None, f"{what}: the step has ended\n{self.text[-5000:]}"
            time.sleep(0.2)
        return found

    def wait_for_step(self, number: int) -> None:
        """Wait until training has logged a step with this number or a later one."""
        self.wait_for(f"step {number}", lambda: any(line["step"] >= number for line in self.events("step")))

    def kill(self) -> None:
        """End it as a lost machine would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, seconds: float = START_SECONDS) -> int:
        """Wait for its end and return the exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the step goes on after {seconds:.0f} s\n{self.text[-5000:]}") from None
        self._reader.join(10)
        return code

    def reason(self) -> str:
        """The error of a step that failed as it should: exit code 2, and its last line says why.

        Before it there may be torchrun's own report of the process that ended, as it stands in the pod's log.
        """
        assert self.end() == 2, self.text[-5000:]
        assert json.loads(self.text.splitlines()[-1])["event"] == "step_failed"
        (failed,) = self.events("step_failed")
        return str(failed["error"])
