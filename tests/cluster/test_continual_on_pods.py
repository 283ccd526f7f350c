"""The pipeline `continual` on the cluster: executions of one schedule, each with what the one before has left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from drrho_clip.continual import find_promoted
from drrho_clip.continual.promotion import find_decision
from drrho_clip.storage import Store, layout
from drrho_clip.training import read_config
from kfp_stand_in import StandIn
from pod_runner import PodRunner
from submitting import execution_of, may_be_root, parameters, records
from testcluster.access import S3, Access


def test_a_better_model_is_promoted_a_worse_one_refused_and_nothing_new_skipped(
    cluster: Access,
    s3: S3,
    server: StandIn,
    runner: PodRunner,
    store: Store,
    drrho: Callable[..., subprocess.CompletedProcess[str]],
    installed: str,
):
    """With a margin of 0.99 no model is good enough."""

    def execute(**changed: str) -> dict[str, dict[str, object]]:
        """One execution; the last line of each event in its pods' logs."""
        values = parameters(store, s3, run="nightly", train_samples="32", report_gallery="0", **changed)
        done = drrho("submit", "continual", "--image", cluster.image, "--wait", "--every", "1", *values)
        assert done.returncode == 0, done.stderr
        logs = [runner.log(pod.metadata.name) for pod in runner.pods(execution_of(server))]
        return {record["event"]: record for log in logs for record in records(log)}

    assert execute()["promotion_decided"]["why"] == "nothing was promoted before"
    first = find_promoted("nightly", store)
    assert first is not None
    assert (first.run, first.dataset_version) == ("nightly-v1", 1)

    skipped = execute()["step_skipped"]
    assert skipped["reason"] == "nothing is new since version 1: 'nightly-v1' was promoted"
    assert find_promoted("nightly", store) == first

    execute(data_samples="120", promote_margin="0.99")
    decision = find_decision("nightly-v2", store)
    assert decision is not None
    assert (decision.promoted, decision.previous) == (False, "nightly-v1")
    assert read_config("nightly-v2", store).initial == "run:nightly-v1"
    assert store.head(layout.report("nightly-v2")) is not None
    assert find_promoted("nightly", store) == first

    execute(data_samples="144", promote_margin="-1")
    second = find_promoted("nightly", store)
    assert second is not None
    assert (second.run, second.dataset_version, second.previous) == ("nightly-v3", 3, "nightly-v1")
    assert may_be_root(cluster.get(installed, "pods")["items"]) == []
