"""PyTorchJob of Kubeflow's training operator, v1.9."""

from __future__ import annotations

from drrho_components.kube import Object
from drrho_components.launch.kind import JobKind
from drrho_components.launch.plan import KEPT_SECONDS, Plan

CONTAINER = "pytorch"  # the operator knows it by this name
GRACE_SECONDS = 60  # to write a checkpoint after SIGTERM


def spec(plan: Plan) -> Object:
    """One node: a master. More: a master and workers. Elastic: workers only, all of which must be there, and may come back."""
    config = plan.config
    elastic = config.elastic == "yes"
    replicas = {"Worker": config.nodes} if elastic else {"Master": 1, "Worker": config.nodes - 1}
    made: Object = {
        "nprocPerNode": str(config.processes),
        "runPolicy": {
            "cleanPodPolicy": "Running",
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            # The operator adds up the restarts of all pods, and all of them restart when one fails: this is a little more than
            # the launcher's own budget, for the time when there is no launcher.
            "backoffLimit": (config.restarts + 1) * config.nodes,
            **plan.deadline(),
        },
        "pytorchReplicaSpecs": {
            name: {"replicas": count, "restartPolicy": "OnFailure", "template": _template(plan)}
            for name, count in replicas.items()
            if count
        },
    }
    if elastic:
        made["elasticPolicy"] = {
            "minReplicas": config.nodes,
            "maxReplicas": config.nodes,
            "maxRestarts": max(1, config.restarts),
            "rdzvBackend": "c10d",
            "rdzvId": plan.name,
        }
    return made


def first(pod: Object) -> bool | None:
    """The master has rank 0; among elastic workers it is the one that the rendezvous chose."""
    labels = pod["metadata"]["labels"]
    if labels.get("training.kubeflow.org/job-role") == "master":
        return True
    return None if "drrho-clip/elastic" in labels else False


def _template(plan: Plan) -> Object:
    container: Object = {
        "name": CONTAINER,
        "image": plan.image,
        "command": plan.arguments(),
        "env": plan.env(),
        "resources": plan.resources(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if plan.metrics_port:
        container["ports"] = [{"name": "metrics", "containerPort": plan.metrics_port}]
    settings = {"priorityClassName": plan.config.priority_class} if plan.config.priority_class else {}
    pod = plan.pod(container, automountServiceAccountToken=False, terminationGracePeriodSeconds=GRACE_SECONDS, **settings)
    if plan.config.elastic == "yes":
        pod["metadata"]["labels"] |= {"drrho-clip/elastic": "true"}
    return pod


PYTORCHJOB = JobKind(
    name="PyTorchJob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    container=CONTAINER,
    operator="Kubeflow's training operator (v1.9)",
    job_label="training.kubeflow.org/job-name",
    succeeded="Succeeded",
    check=lambda _config: None,
    spec=spec,
    first=first,
)
