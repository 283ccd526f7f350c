"""A runner for the stand-in of the pipelines' server that executes a compiled pipeline as real pods, task by task.

The pods are what the compiled YAML says: image, command, executor input, service account, resources, secrets as environment,
tolerations, volumes, labels. Artifacts lie in the S3 server. Their owner is a ConfigMap in place of the server's Workflow object.
A run that is terminated ends as on the real server: SIGTERM, SIGKILL 0.8 s later, and nothing is deleted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes
from kubernetes.stream import stream

from kfp_stand_in import Execution
from testcluster.access import S3, SECRET, Access

HERE = Path(__file__).parent


class PodRunner:
    """Runs executions as pods of a namespace, under the service account `account`."""

    def __init__(self, cluster: Access, s3: S3, namespace: str, account: str = "default") -> None:
        self._cluster, self._s3, self._namespace, self._account = cluster, s3, namespace, account
        self._core = kubernetes.client.CoreV1Api(cluster.api())

    def __call__(self, execution: Execution) -> None:
        """Run one execution to its end."""
        execution.read_log = self.log
        with tempfile.TemporaryDirectory(prefix="pod-runner-") as folder:
            job = Path(folder) / "job.json"
            job.write_text(json.dumps(self._job(execution)))
            process = subprocess.Popen([sys.executable, str(HERE / "pod_worker.py"), str(job)], **self._process(folder))
            threading.Thread(target=self._end_when_cancelled, args=(execution, process), daemon=True).start()
            assert process.stdout is not None
            states = [_tell(execution, json.loads(line)) for line in process.stdout if line.startswith('{"event"')]
            if process.wait() != 0 and "FAILED" not in states and not execution.cancelled.is_set():
                words = (Path(folder) / "errors").read_text()[-3000:]
                raise RuntimeError(f"the pod runner of {execution.workflow} ended with {process.returncode}: {words}")

    def log(self, pod: str) -> str:
        """The log of a pod; LookupError where it is gone."""
        try:
            return str(self._core.read_namespaced_pod_log(pod, self._namespace, container="main"))
        except kubernetes.client.ApiException as error:
            raise LookupError(pod) from error

    def pods(self, execution: Execution) -> list[Any]:
        """The pods of a run's steps; those of a job that a step made are others."""
        selector = f"workflows.argoproj.io/workflow={execution.workflow}"
        return list(self._core.list_namespaced_pod(self._namespace, label_selector=selector).items)

    def delete_owner(self, execution: Execution) -> None:
        """Delete what owns the run's pods, as the end of a Workflow's time to live does."""
        self._core.delete_namespaced_config_map(execution.workflow, self._namespace, propagation_policy="Background")

    def _end_when_cancelled(self, execution: Execution, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            if execution.cancelled.wait(0.2):
                process.kill()
                self._terminate(execution)
                return

    def _terminate(self, execution: Execution) -> None:
        """SIGTERM to every step that runs; a pod that does not run yet is taken away."""
        for pod in self.pods(execution):
            name = pod.metadata.name
            if pod.status.phase == "Running":
                command = ["python3", "-c", "import os; os.kill(1, 15)"]
                stream(
                    kubernetes.client.CoreV1Api(self._cluster.api()).connect_get_namespaced_pod_exec,
                    name, self._namespace, container="main", command=command, stdout=True, stderr=True,
                )  # fmt: skip
            elif pod.status.phase == "Pending":
                self._core.delete_namespaced_pod(name, self._namespace)

    def _job(self, execution: Execution) -> dict[str, Any]:
        name = execution.spec["pipelineInfo"]["name"]
        kubernetes_settings = execution.platform.get("platforms", {}).get("kubernetes", {})
        bucket = urlsplit(self._s3.store_uri).netloc
        return {
            "run_id": execution.run_id,
            "workflow": execution.workflow,
            "namespace": self._namespace,
            "account": self._account,
            "owner": self._owner(execution),
            "labels": {"pipeline/runid": execution.run_id, "workflows.argoproj.io/workflow": execution.workflow},
            "secret": SECRET,
            "endpoint": self._s3.endpoint,
            "keys": {"aws_access_key_id": self._s3.access_key, "aws_secret_access_key": self._s3.secret_key},
            "root": f"minio://{bucket}/v2/artifacts/{name}/{execution.run_id}",
            "kubeconfig": str(self._cluster.kubeconfig),
            "pipeline": execution.spec,
            "platform": kubernetes_settings.get("deploymentSpec", {}).get("executors", {}),
            "parameters": execution.parameters,
        }

    def _owner(self, execution: Execution) -> dict[str, Any]:
        metadata = {"name": execution.workflow, "labels": {"pipeline/runid": execution.run_id}}
        made = self._core.create_namespaced_config_map(self._namespace, {"metadata": metadata})
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": execution.workflow, "uid": made.metadata.uid, "controller": True}

    def _process(self, folder: str) -> dict[str, Any]:
        paths = [str(HERE), str(HERE.parent), *(path for path in sys.path if path)]
        return {
            "stdout": subprocess.PIPE,
            "stderr": (Path(folder) / "errors").open("w"),
            "text": True,
            "cwd": folder,
            "env": {"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder},
        }


def _tell(execution: Execution, said: dict[str, Any]) -> str:
    """Pass on what the worker said of a step, and return the step's state."""
    if said["event"] == "begin":
        execution.begin(*said["step"], attempt=said["attempt"])
        return "RUNNING"
    execution.end(*said["step"], state=said["state"])
    return str(said["state"])
