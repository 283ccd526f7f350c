"""What a job of any kind is made of: names, command, environment and the pods' common parts, as plain dicts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from drrho_clip.errors import ConfigError, LaunchError
from drrho_clip.observe.logs import LEVEL
from drrho_clip.training.config import TrainConfig
from drrho_clip.training.launch import MODULE, TORCHRUN, cpu_environment
from drrho_components.kube import Object
from drrho_components.launch.config import JobConfig, quantity
from drrho_components.steps import SECRET_KEYS

APP, RUN, KFP_RUN, SPEC = "app.kubernetes.io/name", "drrho-clip/run", "pipeline/runid", "drrho-clip/spec"
QUEUE = "kueue.x-k8s.io/queue-name"
USER = 10001  # the image's own
HOME = "/home/drrho"
FAILURE_FILE = "/dev/termination-log"  # what a process leaves there is in its pod's status
HANDED_ON = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", LEVEL)
NAME_LENGTH = 52
LATER_SECONDS = 60
KEPT_SECONDS = 24 * 3600  # how long a finished job may be looked at


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One job before it is put into the form of its kind. `shm` is in bytes, `owner` an ownerReference."""

    config: JobConfig
    run: str
    store: str
    namespace: str
    image: str
    command: list[str]
    shm: int
    kfp_run: str = ""
    metrics_port: int = 0
    owner: Object | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def name(self) -> str:
        """The same for every attempt at this run in this store, so that there is never a second job beside it."""
        digest = hashlib.sha256(f"{self.store}\0{self.run}".encode()).hexdigest()[:8]
        plain = re.sub(r"[^a-z0-9]+", "-", self.run.lower()).strip("-") or "run"
        plain = plain if plain[0].isalpha() else f"run-{plain}"
        return f"{plain[: NAME_LENGTH - 9].rstrip('-')}-{digest}"

    @property
    def labels(self) -> dict[str, str]:
        """Of the job and its pods."""
        own = {APP: "drrho-clip", RUN: label_value(self.run), **({KFP_RUN: self.kfp_run} if self.kfp_run else {})}
        return {**self.config.labels, **own}

    def metadata(self, spec: Object) -> Object:
        """Of the job: an annotation tells one `spec` from another, so that a retry knows the job it left."""
        digest = hashlib.sha256(json.dumps([spec, self.owner, self.labels], sort_keys=True).encode()).hexdigest()[:16]
        return {
            "name": self.name,
            "namespace": self.namespace,
            "labels": {**self.labels, **({QUEUE: self.config.queue} if self.config.queue else {})},
            "annotations": {**self.config.annotations, SPEC: digest},
            **({"ownerReferences": [self.owner]} if self.owner else {}),
        }

    def arguments(self) -> list[str]:
        """The command of every pod: the operator says in PET_* what torchrun has to know of the others."""
        own = ["--failure-file", FAILURE_FILE, "--launcher-timeout", str(self.config.launcher_timeout)]
        own += ["--holder", f"{self.namespace}/{self.name}"]  # a restarted process, on whichever node, need not wait for the last
        # without -- our --run would be its --run-path
        return ["python3", "-m", TORCHRUN, "-m", "--", MODULE, *self.command, *own]

    def env(self) -> list[Object]:
        """Environment of the container: no value that is secret, only where it is."""
        cpus = max(1, int(quantity(self.config.node_cpu)))
        join = "join_timeout" if self.config.elastic == "yes" else "timeout"
        plain = {
            "HOME": HOME,
            "PYTHONUNBUFFERED": "1",
            "PET_RDZV_CONF": f"{join}={self.config.start_timeout}",  # the first pod waits for the last one's image
            **cpu_environment(cpus, self.config.processes),
            **{name: self.environment[name] for name in HANDED_ON if self.environment.get(name)},
        }
        if self.config.elastic == "yes":
            plain["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # or no process can join again after another one died
        if any(urlsplit(value).password for name, value in plain.items() if name.startswith("AWS_ENDPOINT")):
            raise LaunchError(
                "The store's endpoint holds a password, which the job would show", fix="Put the keys into a secret."
            )
        secret = self.config.store_secret
        return [{"name": name, "value": value} for name, value in plain.items()] + [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
            for key, name in SECRET_KEYS.items()
            if secret
        ]

    def resources(self) -> Object:
        """Requests equal limits: what is measured on one node is true on the next, and the kubelet evicts others first."""
        wanted = {"cpu": self.config.node_cpu, "memory": self.config.node_memory}
        if self.config.gpus:
            wanted[self.config.gpu_resource] = str(self.config.gpus)
        return {"requests": wanted, "limits": wanted}

    def mounts(self) -> list[Object]:
        """What is writable under a read-only root."""
        paths = {"tmp": "/tmp", "home": HOME, "shm": "/dev/shm"}
        return [{"name": name, "mountPath": path} for name, path in paths.items()]

    def volumes(self) -> list[Object]:
        """The folders of `mounts`; shared memory counts as memory of the pod."""
        return [
            {"name": "tmp", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(self.shm)}},
        ]

    def pod(self, container: Object, **settings: Any) -> Object:
        """The template of a pod around this container, with more `settings` of its spec.

        It is what the Pod Security level "restricted" asks for.
        """
        config = self.config
        spec = {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": self.volumes(),
            **({"nodeSelector": config.gpu_node_selector} if config.gpu_node_selector else {}),
            **({"tolerations": config.gpu_tolerations} if config.gpu_tolerations else {}),
            **({"serviceAccountName": config.service_account} if config.service_account else {}),
            **({"imagePullSecrets": [{"name": config.image_pull_secret}]} if config.image_pull_secret else {}),
            "containers": [{**container, "volumeMounts": self.mounts(), "securityContext": CONTAINER_SECURITY}],
            **settings,
        }
        return {"metadata": {"labels": self.labels, "annotations": dict(config.annotations)}, "spec": spec}

    def deadline(self) -> Object:
        """The operator's own limit, where there is one: a little later than the launcher's, which says more."""
        return {"activeDeadlineSeconds": self.config.deadline + LATER_SECONDS} if self.config.deadline else {}


CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def label_value(text: str) -> str:
    """`text` as the value of a label: at most 63 of its letters, digits, dashes, dots; with a hash where that is another text."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-._")
    if plain == text:
        return text
    return f"{plain[:54].rstrip('-._')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".strip("-")


def shared_memory(config: JobConfig, training: TrainConfig, samples: int) -> int:
    """Bytes of /dev/shm: as set, or what data workers, u and backends need; ConfigError if a node has not so much."""
    from drrho_clip.training.shared_memory import needed

    world = config.nodes * config.processes
    size = int(quantity(config.shm)) if config.shm else needed(training, samples, processes=config.processes, world_size=world)
    if size >= quantity(config.node_memory):
        raise ConfigError(
            f"/dev/shm of {size / 2**20:,.0f} MiB does not fit into the node's {config.node_memory}",
            where="node_memory",
            fix="Raise node_memory, or lower workers or batch_size, or set shm.",
        )
    return size
