"""Metrics of steps that end before anybody scrapes them: pushed once, to a Pushgateway, where one is configured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from prometheus_client import push_to_gateway

from drrho_clip.observe.logs import get_logger
from drrho_clip.observe.metrics import PREFIX, STAGES, MetricSet, metrics_of

GATEWAY = "PROMETHEUS_PUSHGATEWAY"
"""Environment variable: host:port or URL of the Pushgateway; unset or empty = nothing is pushed."""
JOB = PREFIX.rstrip("_")
SECONDS = 5.0


@contextmanager
def pushed(stage: str) -> Iterator[dict[str, float]]:
    """Push what the body puts into the record, its duration and whether it failed. That pushing fails is only logged.

    A stage has one group at the gateway, replaced by every push: however many runs there are, the series stay as many.
    """
    assert stage in STAGES
    record: dict[str, float] = {"stage_failed": 1}
    started = time.monotonic()
    try:
        yield record
        record["stage_failed"] = 0
    finally:
        _push(stage, {**record, "stage_seconds": time.monotonic() - started})


def _push(stage: str, record: dict[str, float]) -> None:
    gateway = os.environ.get(GATEWAY, "")
    if not gateway:
        return
    known = metrics_of("stage")
    metrics = MetricSet(tuple(metric for metric in known if any(key in record for key, _ in metric.series())))
    metrics.update(record)
    try:
        push_to_gateway(gateway, JOB, metrics.registry, grouping_key={"stage": stage}, timeout=SECONDS)
    except (OSError, HTTPException, ValueError) as error:  # no server, no such name, an error as answer; an unusable address
        get_logger().warning("metrics_not_pushed", gateway=gateway.rpartition("@")[2], reason=str(error))
