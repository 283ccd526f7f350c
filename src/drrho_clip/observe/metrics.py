"""Every metric of the project, by name, and the set of them that one process shows.

A metric is declared once here. Its record key (what metrics.jsonl uses) is the name, followed by the label values:
`pairwise_loss_variance.image.rho`. Labels only take values from the closed lists below (and ranks), so the number of series is
bounded: no name of a run, dataset, object or error is ever a label.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from drrho_clip.observe.logs import get_logger

PREFIX = "drrho_"


@dataclass(frozen=True)
class Metric:
    """One metric: its kind, what it says, the closed list of values of each label, and whose it is.

    Of a training as a whole (`run`, shown by rank 0), of each of its processes (`rank`, shown by the first process of a pod,
    labelled with the rank), or of a short step (`stage`, pushed at its end).
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    of: Literal["run", "rank", "stage"] = "run"

    def series(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (record key, labels) of every series this metric can have."""
        for values in itertools.product(*self.labels.values()):
            yield ".".join((self.name, *values)), dict(zip(self.labels, values, strict=True))


_SIDES = ("image", "text")
STAGES = ("ingest", "reference", "evaluate")
"""Steps that are too short to be scraped."""
SKIPPED = ("decode", "missing", "caption", "size", "row", "download", "duplicate")
"""Classes of reasons why a sample cannot be used."""

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
    Metric("data_wait_seconds", "gauge", "Mean time that the slowest rank waited for its batch, a step of the last interval"),
    Metric(
        "rank_data_wait_seconds", "gauge", "Mean time that a step of the last interval waited for its batch, by rank", of="rank"
    ),
    Metric("temperature", "gauge", "Temperature of the objective (1 / logit scale)"),
    Metric("gamma", "gauge", "Weight of the batch in the moving average u"),
    Metric("learning_rate", "gauge", "Learning rate of the last step"),
    Metric("grad_norm", "gauge", "Norm of the gradient before clipping"),
    Metric("weight_effective_size", "gauge", "Effective number of negatives, 1 / sum of squared weights", {"side": _SIDES}),
    Metric("samples_skipped_total", "counter", "Samples that could not be used", {"reason": SKIPPED}),
    Metric("checkpoint_seconds", "gauge", "Duration of the last checkpoint, from its copy to its publication"),
    Metric("checkpoint_stall_seconds", "gauge", "How long training stood still for the last checkpoint"),
    Metric("checkpoint_step", "gauge", "Step of the last complete checkpoint"),
    Metric("nonfinite_steps_total", "counter", "Steps whose loss or gradient was not finite"),
    Metric("device_memory_bytes", "gauge", "Peak memory of the accelerator, of the rank that needed most"),
    Metric("rank_device_memory_bytes", "gauge", "Peak memory of the accelerator, by rank", of="rank"),
    Metric("epoch", "gauge", "Epoch of the last step"),
    Metric("step", "gauge", "Last step"),
    Metric("steps", "gauge", "Steps of the whole run"),
    Metric("stage_seconds", "gauge", "Duration of the last run of a short step", of="stage"),
    Metric("stage_failed", "gauge", "1 where the last run of a short step failed, else 0", of="stage"),
    Metric("stage_samples", "gauge", "Samples that the last run of a short step brought in or looked at", of="stage"),
    Metric(
        "stage_samples_skipped",
        "gauge",
        "Samples that the last run of a short step could not use",
        {"reason": SKIPPED},
        of="stage",
    ),
    Metric("zero_shot_accuracy", "gauge", "Zero-shot top-1 accuracy of the last evaluation, as a fraction", of="stage"),
)


def metrics_of(*kinds: str, ranks: Iterable[int] = ()) -> tuple[Metric, ...]:
    """The metrics of these kinds; those of `rank` have a series for each of `ranks`."""
    label = {"rank": tuple(map(str, ranks))}
    chosen = (metric for metric in METRICS if metric.of in kinds)
    return tuple(replace(metric, labels={**metric.labels, **label}) if metric.of == "rank" else metric for metric in chosen)


class _Answers:
    """Around the server's WSGI application: knows when an answer to a request that came after `expect` was sent whole."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._sent = Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return _Body(self._application(environ, start_response), self._sent.set)

    def expect(self, seconds: float) -> bool:
        """Wait for such an answer, at most so long."""
        self._sent = Event()  # answers on their way know the one before
        return self._sent.wait(seconds)


class _Body(list[bytes]):
    """An answer; the server calls `close` behind its last byte (PEP 3333)."""

    def __init__(self, parts: Iterable[bytes], close: Callable[[], None]) -> None:
        super().__init__(parts)
        self.close = close


class MetricSet:
    """The metrics of one process, in a registry of its own; counters take totals, so that a resumed run goes on where it was."""

    def __init__(self, metrics: tuple[Metric, ...] = METRICS) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, tuple[Counter, float]] = {}
        self._answers: _Answers | None = None
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
        application = server.get_app()
        assert application is not None
        self._answers = _Answers(application)
        server.set_app(self._answers)
        get_logger().info("metrics_served", port=server.server_port)
        return int(server.server_port)

    def await_scrape(self, seconds: float) -> bool:
        """Wait until what is shown now has been read, at most so long; False at once where nothing is served."""
        return self._answers is not None and self._answers.expect(seconds)
