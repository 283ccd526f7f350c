"""Training as a job of one of Kubeflow's operators."""

from __future__ import annotations

import os

from drrho_clip.data.manifest import load_manifest
from drrho_clip.errors import LaunchError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, open_store
from drrho_clip.training import TrainConfig, read_config
from drrho_clip.training.heartbeat import RENEWED_SECONDS, Heartbeat
from drrho_clip.training.step import free_settings
from drrho_components.kube import Object, connect, own_pod
from drrho_components.launch.checks import check, own_container
from drrho_components.launch.config import JobConfig
from drrho_components.launch.kind import JobKind
from drrho_components.launch.plan import KFP_RUN, Plan, shared_memory
from drrho_components.launch.session import Session


class ClusterLauncher:
    """Makes a job of one kind, or finds the one that it left; says what happens to it, and ends it when it is ended itself.

    Building it reaches the cluster and looks for all that a job needs: a DrrhoError says what is missing.
    """

    def __init__(self, kind: JobKind, config: JobConfig) -> None:
        kind.check(config)
        self.kind, self.config = kind, config
        self.cluster = connect()
        self.namespace = config.namespace or self.cluster.namespace
        self.pod = own_pod(self.cluster)
        check(self.cluster, kind, config, self.namespace, self.pod)

    def run(self, command: list[str]) -> None:
        """See Launcher."""
        options = dict(zip(command[::2], command[1::2], strict=True))
        store, run = open_store(options["--store"]), options["--run"]
        if not store.uri.startswith("s3://"):
            raise LaunchError(
                f"The pods of a {self.kind.name} do not share the folder {store.uri}", fix="Use a store in a bucket: s3://..."
            )
        plan = self._plan(command, store, read_config(run, store, free_settings(command)))
        holder = plan.kfp_run or (plan.owner or {}).get("uid") or os.uname().nodename
        every = min(RENEWED_SECONDS, self.config.launcher_timeout / 3)
        with Heartbeat(store, run, f"{self.namespace}/{holder}", every=every):
            Session(self.cluster, self.kind, plan, store).run()

    def _plan(self, command: list[str], store: Store, training: TrainConfig) -> Plan:
        config = self.config
        samples = load_manifest(store, training.dataset, training.dataset_version).total
        size = shared_memory(config, training, samples)
        get_logger().info(
            "topology",
            pods=config.nodes,
            processes=config.nodes * config.processes,
            global_batch=training.batch_size,
            shm_mib=size // 2**20,
        )
        labels = self.pod["metadata"].get("labels", {}) if self.pod else {}
        return Plan(
            config=config,
            run=training.run,
            store=store.uri,
            namespace=self.namespace,
            image=config.image or self._own_image(),
            command=command,
            shm=size,
            kfp_run=labels.get(KFP_RUN, ""),
            metrics_port=training.metrics_port,
            owner=self._owner(),
        )

    def _own_image(self) -> str:
        if self.pod is None:
            raise LaunchError(
                "The image of the job's pods is not known: the launcher runs outside of the cluster, or may not get its own pod",
                fix="Set image, or give the step's service account the right to get pods.",
            )
        return str(own_container(self.pod)["image"])

    def _owner(self) -> Object | None:
        """The workflow of the step, which outlives a retried pod; else the pod. Owners lie in the same namespace."""
        if self.pod is None or self.namespace != self.cluster.namespace:
            return None
        for owner in self.pod["metadata"].get("ownerReferences", []):
            if owner.get("controller"):
                return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
        metadata = self.pod["metadata"]
        return {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
