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
    check: Callable[[JobConfig], None]
    manifest: Callable[[Plan], Object]
    phase: Callable[[Object], Phase]
    first: Callable[[Object], bool | None]
    """Whether a pod has rank 0; None = that is only known from its log."""

    @property
    def api(self) -> str:
        """Path of the API group."""
        return f"/apis/{self.group}/{self.version}"

    def jobs(self, namespace: str) -> str:
        """Path of the jobs of a namespace."""
        return f"{self.api}/namespaces/{namespace}/{self.plural}"


def holds(job: Object, condition: str) -> bool:
    """Whether a condition of the job is true; the order of the list says nothing."""
    return any(item["type"] == condition and item["status"] == "True" for item in job.get("status", {}).get("conditions") or [])
