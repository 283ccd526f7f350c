"""`python pod_worker.py JOB`: runs one compiled pipeline, each of its tasks as a pod, in the order of kfp's local orchestration.

kfp.local keeps its settings in globals and has no place for a runner of one's own: so this is a process of its own, in which the
function that would start a task is replaced. Everything else is kfp's: the order, conditions, loops, retries, placeholders.
Prints one line of JSON for each step that begins or ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import boto3
import kubernetes
from google.protobuf import json_format
from kfp import local
from kfp.local import (
    config,
    executor_input_utils,
    executor_output_utils,
    pipeline_orchestrator,
    placeholder_utils,
    status,
    task_dispatcher,
)
from kfp.local.orchestrator import task_executor
from kfp.pipeline_spec import pipeline_spec_pb2

import pod_spec
from kfp_stand_in.nodes import Nodes

RESTARTS = 2
RESTART_SECONDS = 6.0
"""A pod that is gone is started again, as was seen on a real server."""
OUTPUT_FILE = "/tmp/kfp_outputs/output_metadata.json"
LOOK_SECONDS = 0.5


class Worker:
    """Executes the tasks of one run; `job` is what the pod runner wrote."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._nodes = Nodes(job["workflow"])
        self._task = threading.local()
        self._core = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(job["kubeconfig"]))
        self._store = boto3.client("s3", endpoint_url=job["endpoint"], region_name="us-east-1", **job["keys"])
        self._lock = threading.Lock()

    def install(self) -> None:
        """Let kfp's orchestration start tasks here."""
        whole = task_executor.execute_single_task

        def remembered(*, task_name: str, io_store: Any, pipeline_resource_name: str, **named: Any) -> Any:
            turns = [turn.rpartition("-iteration-") for turn in pipeline_resource_name.split("/")[1:]]
            self._task.step = (*(part for loop, _, turn in turns for part in (loop, int(turn))), task_name)
            self._task.values = io_store
            return whole(task_name=task_name, io_store=io_store, pipeline_resource_name=pipeline_resource_name, **named)

        task_executor.execute_single_task = remembered
        task_dispatcher.run_single_task_implementation = self.run_task

    def run_task(
        self, *, component_name: str, component_spec: Any, executor_spec: Any, arguments: dict[str, Any], **_: Any
    ) -> tuple[dict[str, Any], status.Status]:
        """Run one attempt of a task to its end, and return its outputs: what kfp calls instead of its own function."""
        step = self._task.step
        root = f"{self._job['root']}/{step[-1]}/{uuid.uuid4()}"
        asked = executor_input_utils.construct_executor_input(component_spec, arguments, root, block_input_artifact=False)
        output_uri, asked.outputs.output_file = asked.outputs.output_file, OUTPUT_FILE
        container = self._container(step, asked, component_spec, executor_spec.container, output_uri)
        label = component_spec.executor_label
        settings = self._job["platform"].get(label, {})
        ended = self._run_pods(step, container, settings, self._task.values)
        self._say("end", step, state="SUCCEEDED" if ended else "FAILED")
        if not ended:
            return {}, status.Status.FAILURE
        outputs = json_format.Parse(self._read(output_uri), pipeline_spec_pb2.ExecutorOutput())
        return executor_output_utils.get_outputs_from_executor_output(outputs, asked, component_spec), status.Status.SUCCESS

    def _container(
        self, step: tuple[Any, ...], asked: Any, component_spec: Any, container: Any, output_uri: str
    ) -> dict[str, Any]:
        values = executor_input_utils.executor_input_to_dict(asked, component_spec)
        names = {
            "executor_input_dict": values,
            "pipeline_resource_name": self._job["workflow"],
            "task_resource_name": str(step[-1]),
            "pipeline_root": self._job["root"],
        }
        command = placeholder_utils.replace_placeholders(
            [*container.command, *container.args], unique_pipeline_id=self._job["run_id"], **names
        )
        resources = placeholder_utils.recursively_resolve_json_dict_placeholders(
            json_format.MessageToDict(container.resources), pipeline_job_id=self._job["run_id"], pipeline_task_id="", **names
        )
        task = {
            "command": command,
            "endpoint": self._job["endpoint"],
            "inputs": _artifacts(asked.inputs),
            "outputs": _artifacts(asked.outputs),
            "output_file": OUTPUT_FILE,
            "output_uri": output_uri,
        }
        environment = [{"name": item.name, "value": item.value} for item in container.env]
        return {"image": container.image, "task": task, "env": environment, "resources": pod_spec.resources(resources)}

    def _run_pods(self, step: tuple[Any, ...], container: dict[str, Any], settings: dict[str, Any], values: Any) -> bool:
        """Run a pod, and further ones when it is gone; whether one of them succeeded."""
        for attempt in range(1 + RESTARTS):
            with self._lock:
                name = self._nodes.begin(step, attempt)
            job = self._job
            pod = pod_spec.make_pod(name, job["labels"], job["owner"], job["account"], container, job["secret"])
            pod_spec.apply_settings(pod, settings, lambda parameter: _value(parameter, values))
            self._core.create_namespaced_pod(job["namespace"], pod)
            self._say("begin", step, attempt=attempt)
            phase = self._phase_at_end(name)
            if phase:
                return phase == "Succeeded"
            time.sleep(RESTART_SECONDS)
        return False

    def _phase_at_end(self, name: str) -> str:
        """The phase in which a pod ended; empty where it is gone."""
        while True:
            try:
                pod = self._core.read_namespaced_pod(name, self._job["namespace"])
            except kubernetes.client.ApiException as error:
                if error.status == 404:
                    return ""
                raise
            if pod.metadata.deletion_timestamp is None and pod.status.phase in ("Succeeded", "Failed"):
                return str(pod.status.phase)
            time.sleep(LOOK_SECONDS)

    def _read(self, uri: str) -> bytes:
        bucket, _, key = uri.partition("://")[2].partition("/")
        try:
            content: bytes = self._store.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self._store.exceptions.NoSuchKey:
            return b"{}"  # a step without outputs writes no such file
        return content

    def _say(self, event: str, step: tuple[Any, ...], **facts: Any) -> None:
        with self._lock:
            print(json.dumps({"event": event, "step": step, **facts}), flush=True)


def _artifacts(side: Any) -> dict[str, str]:
    """URI to path in the container, for each artifact that the step is given or makes."""
    found = (artifact.uri for listed in side.artifacts.values() for artifact in listed.artifacts)
    return {uri: "/" + uri.replace("://", "/") for uri in found}


def _value(parameter: Any, values: Any) -> Any:
    """The value that a setting names: one of the pipeline's parameters, an output of a task, or a constant."""
    if "componentInputParameter" in parameter:
        return values.get_parent_input(parameter["componentInputParameter"])
    if "taskOutputParameter" in parameter:
        output = parameter["taskOutputParameter"]
        return values.get_task_output(output["producerTask"], output["outputParameterKey"])
    return parameter["runtimeValue"]["constant"]


def main(job_file: str) -> int:
    """Run the pipeline of the job; exit code 1 when a step failed."""
    warnings.simplefilter("ignore")
    job = json.loads(Path(job_file).read_text())
    local.init(runner=local.SubprocessRunner(use_venv=False))
    config.LocalExecutionConfig.instance.pipeline_root = job["root"]
    Worker(job).install()
    specification = json_format.ParseDict(job["pipeline"], pipeline_spec_pb2.PipelineSpec())
    try:
        pipeline_orchestrator.run_local_pipeline(specification, job["parameters"])
    except RuntimeError as error:  # what kfp raises for a failed step
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
