"""What Kueue says of a job that waits in a queue."""

from __future__ import annotations

from drrho_clip.observe import get_logger
from drrho_components.kube import Cluster, ClusterError, Object

GROUP = "/apis/kueue.x-k8s.io"
EVERY_SECONDS = 10.0


class QueueNews:
    """Tells why a suspended job waits, each reason once."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._next, self._said = 0.0, ""

    def tell(self, job: Object, now: float) -> None:
        """Ask Kueue, not more often than every few seconds."""
        if now < self._next:
            return
        self._next = now + EVERY_SECONDS
        try:
            reason = self._reason(job["metadata"]["uid"]) or "the job is suspended, and no queue says why"
        except ClusterError as error:
            reason = f"the job is suspended, and its queue cannot be asked: {error.what}"
        if reason != self._said:
            self._said = reason
            get_logger().info("job_queued", job=job["metadata"]["name"], reason=reason)

    def _reason(self, uid: str) -> str:
        version = self._cluster.get(GROUP)["preferredVersion"]["groupVersion"]
        path = f"/apis/{version}/namespaces/{self._namespace}/workloads"
        for workload in self._cluster.get(path)["items"]:
            if any(owner["uid"] == uid for owner in workload["metadata"].get("ownerReferences", [])):
                conditions = workload.get("status", {}).get("conditions") or []
                return "; ".join(item["message"] for item in conditions if item["type"] == "QuotaReserved") or "not yet looked at"
        return ""
