"""What the operators' jobs differ in, as the run loop sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from drrho_components.kube import Object
from drrho_components.launch.config import JobConfig
from drrho_components.launch.plan import Plan


class Phase(Enum):
    """Where a job is."""

    WAITING = "waiting"  # the operator has not said anything yet
    SUSPENDED = "suspended"
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """One kind of job: where it lies in the API, how it is made, how its status and its pods are read."""

    name: str
    group: str
    version: str
    plural: str
    container: str
    operator: str
    job_label: str
    """Label of the pods whose value is the job's name."""
    succeeded: str
    """Condition of a job that has trained to its end."""
    check: Callable[[JobConfig], None]
    spec: Callable[[Plan], Object]
    first: Callable[[Object], bool | None]
    """Whether a pod has rank 0; None = that is only known from its log."""

    def jobs(self, namespace: str) -> str:
        """Path of the jobs of a namespace."""
        return f"/apis/{self.group}/{self.version}/namespaces/{namespace}/{self.plural}"

    def manifest(self, plan: Plan) -> Object:
        """The job of a plan."""
        spec = self.spec(plan)
        return {"apiVersion": f"{self.group}/{self.version}", "kind": self.name, "metadata": plan.metadata(spec), "spec": spec}

    def phase(self, job: Object) -> Phase:
        """Read the job's status; the order of its conditions says nothing."""
        status = job.get("status", {})
        true = {item["type"] for item in status.get("conditions") or [] if item["status"] == "True"}
        for condition, found in (("Failed", Phase.FAILED), (self.succeeded, Phase.SUCCEEDED), ("Suspended", Phase.SUSPENDED)):
            if condition in true:
                return found
        return Phase.ACTIVE if status.get("conditions") or status.get("jobsStatus") else Phase.WAITING
