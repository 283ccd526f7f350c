"""What a launcher may do in its namespace: one list for the launchers, the doctor and k8s/base/role.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from drrho_components.kube import Cluster


@dataclass(frozen=True)
class Right:
    """Verbs on one resource, and what there is not without them."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    without: str
    optional: bool = False
    """Training works without it, and only says less."""


JOB = ("create", "get", "delete")
RIGHTS = (
    Right("kubeflow.org", "pytorchjobs", JOB, "train_launcher=pytorchjob"),
    Right("trainer.kubeflow.org", "trainjobs", JOB, "train_launcher=trainjob"),
    Right("", "pods", ("get", "list", "watch"), "the reasons why pods wait or die"),
    Right("", "pods/log", ("get",), "the training's log"),
    Right("", "events", ("list", "watch"), "the scheduler's and the operators' messages", optional=True),
    Right("kueue.x-k8s.io", "workloads", ("list",), "the reason why a queue holds a job", optional=True),
)
FIX = "Run `kubectl apply -k` on the overlay of k8s/overlays that suits this namespace."


@dataclass(frozen=True)
class Asker:
    """Whose rights in a namespace are asked for: a service account's, or (empty) those of whoever asks."""

    cluster: Cluster
    namespace: str
    account: str = ""

    def missing(self, right: Right) -> list[str]:
        """The verbs that are not given."""
        return [verb for verb in right.verbs if not self.may(verb, right.resource, right.group)]

    def may(self, verb: str, resource: str, group: str = "", name: str = "") -> bool:
        """Whether the API server would let them."""
        resource, _, subresource = resource.partition("/")
        attributes = {"namespace": self.namespace, "group": group, "resource": resource, "verb": verb}
        attributes |= {key: value for key, value in (("subresource", subresource), ("name", name)) if value}
        spec: dict[str, object] = {"resourceAttributes": attributes}
        path, kind = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "SelfSubjectAccessReview"
        metadata: dict[str, str] = {}
        if self.account:
            path = f"/apis/authorization.k8s.io/v1/namespaces/{self.namespace}/localsubjectaccessreviews"
            kind, metadata = "LocalSubjectAccessReview", {"namespace": self.namespace}
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
            spec |= {"user": f"system:serviceaccount:{self.namespace}:{self.account}", "groups": groups}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
        return bool(self.cluster.create(path, body)["status"].get("allowed"))
