"""Whether the runs' service account may do what a launcher does."""

from __future__ import annotations

from collections.abc import Iterator

from drrho_clip.doctor import Finding
from drrho_components.kube import Cluster, Forbidden
from drrho_components.rights import FIX, RIGHTS, Asker


def rights(cluster: Cluster, account: str, there: set[str]) -> Iterator[Finding]:
    """A finding per resource; those of kinds that the cluster does not have (not in `there`) are left out.

    In a pod the rights are the pod's own, elsewhere those of `account`, or (empty, or it may not be asked for) one's own.
    """
    asking = Asker(cluster, cluster.namespace, "" if cluster.inside else account)
    if asking.account:
        try:
            asking.may("get", "pods")
        except Forbidden:
            asking = Asker(cluster, cluster.namespace)
            yield Finding("rights", None, f"you may not ask for the rights of '{account}': these are your own")
    elif not cluster.inside:
        detail = "no service account of Kubeflow's is in this namespace: these are your own"
        yield Finding("rights", None, detail, "Name the account that the runs have with --service-account.")
    who = asking.account or ("this pod" if cluster.inside else "you")
    for right in RIGHTS:
        if right.group and right.resource not in there:
            continue
        name = f"right: {right.resource}"
        if missing := asking.missing(right):
            detail = f"{who} may not {', '.join(missing)}: without it no {right.without}"
            yield Finding(name, None if right.optional else False, detail, FIX)
        else:
            yield Finding(name, True, f"{who} may {', '.join(right.verbs)}")
