"""Every metric of the project, by name, and the set of them that one process serves.

A metric is declared once here. Its record key (what metrics.jsonl uses) is the name, followed by the label values:
`pairwise_loss_variance.image.rho`. Labels only take values from the closed lists below, so the number of series is bounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from drrho_clip.observe.logs import get_logger

PREFIX = "drrho_"


@dataclass(frozen=True)
class Metric:
    """One metric: its kind, what it says, and the closed list of values of each label."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def series(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (record key, labels) of every series this metric can have."""
        for values in itertools.product(*self.labels.values()):
            yield ".".join((self.name, *values)), dict(zip(self.labels, values, strict=True))


_SIDES = ("image", "text")

METRICS: tuple[Metric, ...] = (
    Metric("loss", "gauge", "Objective of the last step"),
    Metric("loss_part", "gauge", "Named parts of the objective", {"part": ("image", "text", "temperature", "distillation")}),
    Metric(
        "pairwise_loss_variance",
        "gauge",
        "Variance of the pairwise losses of a batch, of the target model (target) and minus the reference's (rho)",
        {"side": _SIDES, "of": ("target", "rho")},
    ),
    Metric("samples_total", "counter", "Samples seen by training, all ranks"),
    Metric("samples_per_second", "gauge", "Samples per second over the last logged interval, all ranks"),
    Metric("step_seconds", "gauge", "Mean wall time of a step over the last logged interval"),
    Metric("data_wait_seconds", "gauge", "Mean time that a step waited for its batch over the last logged interval"),
    Metric("temperature", "gauge", "Temperature of the objective (1 / logit scale)"),
    Metric("gamma", "gauge", "Weight of the batch in the moving average u"),
    Metric("learning_rate", "gauge", "Learning rate of the last step"),
    Metric("grad_norm", "gauge", "Norm of the gradient before clipping"),
    Metric("weight_effective_size", "gauge", "Effective number of negatives, 1 / sum of squared weights", {"side": _SIDES}),
    Metric(
        "samples_skipped_total", "counter", "Samples that could not be used", {"reason": ("decode", "missing", "caption", "size")}
    ),
    Metric("checkpoint_seconds", "gauge", "Duration of the last checkpoint"),
    Metric("checkpoint_step", "gauge", "Step of the last complete checkpoint"),
    Metric("nonfinite_steps_total", "counter", "Steps whose loss or gradient was not finite"),
    Metric("device_memory_bytes", "gauge", "Peak memory of the accelerator"),
    Metric("epoch", "gauge", "Epoch of the last step"),
    Metric("step", "gauge", "Last step"),
    Metric("zero_shot_accuracy", "gauge", "Zero-shot top-1 accuracy of the last evaluation, as a fraction"),
)


class MetricSet:
    """The metrics of one process, in a registry of its own; counters take totals, so that a resumed run goes on where it was."""

    def __init__(self, metrics: tuple[Metric, ...] = METRICS) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, tuple[Counter, float]] = {}
        for metric in metrics:
            self._add(metric)

    def _add(self, metric: Metric) -> None:
        kind = Gauge if metric.kind == "gauge" else Counter
        parent = kind(PREFIX + metric.name, metric.help, tuple(metric.labels), registry=self.registry)
        for key, labels in metric.series():
            child = parent.labels(**labels) if labels else parent
            if isinstance(child, Gauge):
                self._gauges[key] = child
            else:
                self._counters[key] = (child, 0.0)

    def known(self, key: str) -> bool:
        """Whether `key` is the record key of a declared series."""
        return key in self._gauges or key in self._counters

    def update(self, record: Mapping[str, float]) -> None:
        """Take the values of one record of metrics.jsonl; keys that are no metric (time, run) are left alone."""
        for key, value in record.items():
            if key in self._gauges:
                self._gauges[key].set(value)
            elif key in self._counters:
                counter, last = self._counters[key]
                counter.inc(max(0.0, value - last))
                self._counters[key] = (counter, max(last, value))

    def serve(self, port: int) -> int | None:
        """Serve /metrics on `port` (0 = any free one); return the port, or None (and say so) where it is taken."""
        try:
            server, _ = start_http_server(port, registry=self.registry)
        except OSError as error:
            get_logger().warning("metrics_not_served", port=port, reason=str(error))
            return None
        return int(server.server_port)
