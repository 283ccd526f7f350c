"""What the server keeps - pipelines, versions, experiments, runs, recurring runs - and what it says about each."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import yaml

from kfp_stand_in.execution import Execution, Runner
from kfp_stand_in.nodes import now

ACCOUNT = "pipeline-runner"
KINDS: dict[str, tuple[tuple[type, ...], str, str]] = {
    "NUMBER_INTEGER": ((int, float), "double or integer", "number"),
    "NUMBER_DOUBLE": ((int, float), "double or integer", "number"),
    "STRING": ((str,), "string", "string"),
    "BOOLEAN": ((bool,), "bool", "bool"),
    "LIST": ((list,), "list", "list"),
    "STRUCT": ((dict,), "struct", "struct"),
}
"""What a parameter's type takes, and what the server calls the type and the value."""


class Problem(Exception):
    """An answer that is no success: HTTP's status, and the server's own words."""

    def __init__(self, status: int, inner: str, outer: str = "", *, code: int = 3) -> None:
        self.status = status
        details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": inner}]
        self.body: dict[str, Any] = {"code": code, "message": f"{outer}{inner}", "details": details}


class Taken(Problem):
    """The name of an upload is taken."""

    def __init__(self, what: str) -> None:
        super().__init__(409, what)
        self.body = {"error_message": what, "error_details": f"{what} ... (a stack trace follows)"}


def missing(kind: str, identity: str, outer: str) -> Problem:
    """The answer for an id that is not there."""
    return Problem(404, f"{kind} {identity} not found", f"{outer}ResourceNotFoundError: ", code=5)


def new_id() -> str:
    """An id as the server makes them."""
    return str(uuid.uuid4())


@dataclass
class Server:
    """Everything that a server keeps, each kind by id in the order of its making."""

    runner: Runner
    multi_user: bool = False
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)
    may_start: threading.Event = field(default_factory=threading.Event)
    """Runs are PENDING until it is set, as it is from the start."""

    def __post_init__(self) -> None:
        self.may_start.set()

    def upload(self, name: str, text: str, **facts: str) -> dict[str, Any]:
        """A new pipeline and its first version, which has the pipeline's name."""
        if any(pipeline["name"] == name for pipeline in self.pipelines.values()):
            raise Taken("Failed to create a pipeline and a pipeline version")
        made = {"pipeline_id": new_id(), "display_name": name, "name": name, **facts, "created_at": now()}
        self.pipelines[made["pipeline_id"]] = made
        self.upload_version(made["pipeline_id"], name, text, **facts)
        return made

    def upload_version(self, pipeline_id: str, name: str, text: str, **facts: str) -> dict[str, Any]:
        """A further version."""
        if any(found["pipeline_id"] == pipeline_id and found["name"] == name for found in self.versions.values()):
            raise Taken("Failed to create a pipeline version")
        made = {"pipeline_id": pipeline_id, "pipeline_version_id": new_id(), "display_name": name, "name": name, **facts}
        made |= {"created_at": now(), "pipeline_spec": _specification(text)}
        self.versions[made["pipeline_version_id"]] = made
        return made

    def create_experiment(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A new experiment."""
        made = {"experiment_id": new_id(), "display_name": asked["display_name"], "created_at": now()}
        made |= {"storage_state": "AVAILABLE", "last_run_created_at": "1970-01-01T00:00:00Z"}
        self.experiments[made["experiment_id"]] = made
        return made

    def create_run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A new run, which begins at once."""
        specification = self._checked(asked, "Failed to create a new run: ")
        run_id = new_id()
        kept = {
            name: asked[name] for name in ("pipeline_version_reference", "pipeline_spec", "recurring_run_id") if name in asked
        }
        parameters = asked.get("runtime_config", {}).get("parameters", {})
        made = {"experiment_id": asked["experiment_id"], "run_id": run_id, "display_name": asked["display_name"]}
        made |= {"storage_state": "AVAILABLE", **kept}
        if parameters:
            made["runtime_config"] = {"parameters": parameters}
        made |= {"service_account": asked.get("service_account") or ACCOUNT, "created_at": now(), "scheduled_at": now()}
        self.runs[run_id] = made
        self.experiments[asked["experiment_id"]]["last_run_created_at"] = made["created_at"]
        spec, platform = _parts(specification)
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        values = {name: facts["defaultValue"] for name, facts in declared.items() if "defaultValue" in facts} | parameters
        whole = {name: int(value) for name, value in values.items() if declared[name]["parameterType"] == "NUMBER_INTEGER"}
        execution = self.executions[run_id] = Execution(run_id, spec, platform, values | whole)
        answer = self.run(run_id)
        execution.start(self.runner, self.may_start)
        return answer

    def run(self, run_id: str) -> dict[str, Any]:
        """What the server says about a run."""
        if run_id not in self.runs:
            raise missing("Run", run_id, f"Failed to get a run: Failed to fetch run {run_id}: ")
        execution = self.executions[run_id]
        facts = {"finished_at": execution.finished, "state": execution.state}
        if details := execution.task_details():
            facts["run_details"] = {"task_details": details}
        history = [{"update_time": time, "state": state} for state, time in execution.state_history]
        return {**self.runs[run_id], **facts, "state_history": history}

    def terminate(self, run_id: str) -> dict[str, Any]:
        """End a run."""
        if run_id not in self.runs or not self.executions[run_id].terminate():
            outer = f"Failed to terminate a run: Failed to terminate run {run_id}: Invalid input error: "
            raise Problem(400, f"Failed to terminate a run {run_id}. Row not found", outer)
        return {}

    def create_recurring(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A new recurring run; a second one of the same name is as welcome as the first."""
        self._checked(asked, "Failed to create a recurring run: ")
        names = ("display_name", "description", "pipeline_version_reference", "pipeline_spec", "runtime_config")
        made: dict[str, Any] = {"recurring_run_id": new_id()} | {name: asked[name] for name in names if asked.get(name)}
        made |= {"service_account": asked.get("service_account") or ACCOUNT, "max_concurrency": str(asked["max_concurrency"])}
        made |= {"trigger": asked["trigger"], "mode": asked["mode"], "created_at": now(), "updated_at": now()}
        made |= {"status": f"{asked['mode']}D", "no_catchup": asked.get("no_catchup", False), "namespace": "kubeflow"}
        made["experiment_id"] = asked["experiment_id"]
        self.recurring[made["recurring_run_id"]] = made
        return made

    def find_recurring(self, recurring_id: str) -> dict[str, Any]:
        """A recurring run."""
        if recurring_id not in self.recurring:
            raise missing("Job", recurring_id, "Failed to fetch a recurring run: ")
        return self.recurring[recurring_id]

    def set_mode(self, recurring_id: str, mode: str) -> dict[str, Any]:
        """Enable or disable a recurring run."""
        self.find_recurring(recurring_id).update(mode=mode, status=f"{mode}D")
        return {}

    def fire(self, recurring_id: str) -> str:
        """Start a run of a recurring run now, as its hour would; returns the run's id."""
        found = self.recurring[recurring_id]
        copied = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account", "recurring_run_id")
        asked = {name: found[name] for name in copied if name in found}
        return str(self.create_run({**asked, "display_name": f"{found['display_name']} {now()}"})["run_id"])

    def _checked(self, asked: dict[str, Any], outer: str) -> dict[str, Any]:
        """The compiled pipeline that is asked for; a Problem where it is not there, or its parameters are not these."""
        if "pipeline_spec" in asked:
            specification: dict[str, Any] = asked["pipeline_spec"]
        else:
            version_id = asked["pipeline_version_reference"]["pipeline_version_id"]
            if version_id not in self.versions:
                raise _unknown_version(version_id, outer)
            specification = self.versions[version_id]["pipeline_spec"]
        spec, _ = _parts(specification)
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        outer += "Failed to generate the ExecutionSpec: invalid pipeline job inputs: Invalid input error: "
        parameters = asked.get("runtime_config", {}).get("parameters", {})
        if unknown := [name for name in parameters if name not in declared]:
            raise Problem(400, f"parameter(s) provided are not required by pipeline: {', '.join(unknown)}", outer)
        for name, value in parameters.items():
            types, wanted, got = KINDS[declared[name]["parameterType"]]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                text = f"input parameter {name} requires type {wanted}, but the parameter value is not of {got} value type"
                raise Problem(400, text, outer)
        return specification


def _unknown_version(version_id: str, outer: str) -> Problem:
    problem = Problem(500, "Internal Server Error", code=13)
    problem.body["message"] = (
        f"{outer}InternalServerError: Failed to create a run due to error fetching manifest: Failed to fetch a template due to "
        "error retrieving pipeline version: Failed to fetch a pipeline version and its manifest from pipeline version "
        f"{version_id}: Failed to get a pipeline version with id {version_id}: "
        f"ResourceNotFoundError: PipelineVersion {version_id} not found"
    )
    return problem


def _specification(text: str) -> dict[str, Any]:
    """A compiled pipeline as the server gives it back."""
    spec, *platform = yaml.safe_load_all(text)
    return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec


def _parts(specification: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return specification.get("pipeline_spec", specification), specification.get("platform_spec", {})
