"""What a launcher must be allowed to do in its namespace, and whether it is: the same list as in k8s/base/role.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drrho_clip.doctor import Finding
from drrho_pipelines.cluster.connection import Cluster, Forbidden


@dataclass(frozen=True)
class Right:
    """Verbs on one resource, and what does not work without them."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    without: str
    optional: bool = False


JOB = ("create", "get", "delete")
RIGHTS = (
    Right("kubeflow.org", "pytorchjobs", JOB, "train_launcher=pytorchjob"),
    Right("trainer.kubeflow.org", "trainjobs", JOB, "train_launcher=trainjob"),
    Right("", "pods", ("get", "list", "watch"), "the reasons why pods wait or die"),
    Right("", "pods/log", ("get",), "the training's log"),
    Right("", "events", ("list", "watch"), "the scheduler's and the operators' messages"),
    Right("kueue.x-k8s.io", "workloads", ("list",), "the reason why a queue holds a job", optional=True),
)
FIX = "Run `kubectl apply -k` on the overlay of k8s/overlays that suits this namespace."


@dataclass(frozen=True)
class Asker:
    """Whose rights are asked: a service account of the namespace, or (empty) whoever asks."""

    cluster: Cluster
    account: str

    def may(self, right: Right, verb: str) -> bool:
        """Whether the API server would let them."""
        resource, _, subresource = right.resource.partition("/")
        attributes = {"namespace": self.cluster.namespace, "group": right.group, "resource": resource, "verb": verb}
        if subresource:
            attributes["subresource"] = subresource
        spec: dict[str, object] = {"resourceAttributes": attributes}
        path, kind = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "SelfSubjectAccessReview"
        metadata: dict[str, str] = {}
        if self.account:
            namespace = self.cluster.namespace
            path = f"/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews"
            kind, metadata = "LocalSubjectAccessReview", {"namespace": namespace}
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
            spec |= {"user": f"system:serviceaccount:{namespace}:{self.account}", "groups": groups}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
        return bool(self.cluster.create(path, body)["status"].get("allowed"))


def rights(cluster: Cluster, account: str, there: set[str]) -> Iterator[Finding]:
    """A finding per resource; those of kinds that the cluster does not have (not in `there`) are left out.

    In a pod the rights are the pod's own, elsewhere those of `account`, or (empty, or it may not be asked for) one's own.
    """
    asking = Asker(cluster, "" if cluster.inside else account)
    if asking.account:
        try:
            asking.may(RIGHTS[0], "get")
        except Forbidden:
            asking = Asker(cluster, "")
            yield Finding("rights", None, f"you may not ask for the rights of '{account}': these are your own")
    elif not cluster.inside:
        detail = "no service account of Kubeflow's is in this namespace: these are your own"
        yield Finding("rights", None, detail, "Name the account that the runs have with --service-account.")
    who = asking.account or ("this pod" if cluster.inside else "you")
    for right in RIGHTS:
        if right.group and right.resource not in there:
            continue
        missing = [verb for verb in right.verbs if not asking.may(right, verb)]
        name = f"right: {right.resource}"
        if missing:
            detail = f"{who} may not {', '.join(missing)}: without it no {right.without}"
            yield Finding(name, None if right.optional else False, detail, FIX)
        else:
            yield Finding(name, True, f"{who} may {', '.join(right.verbs)}")
