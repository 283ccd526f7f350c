"""Write k8s/monitoring/ from the one list of metrics, so that no rule or panel names a series that is not there: `make docs`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drrho_clip.observe.metrics import METRICS, PREFIX

FOLDER = Path(__file__).resolve().parents[1] / "k8s/monitoring"
RUN_LABEL = "drrho-clip/run"  # of pods; the series get it as `run`
APP = {"app.kubernetes.io/name": "drrho-clip"}
PORT = "metrics"


@dataclass(frozen=True)
class Alert:
    """One rule: when it fires, and what a person should then do."""

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    action: str


@dataclass(frozen=True)
class Panel:
    """One graph: its expressions by legend (the labels in braces are the series' own)."""

    title: str
    unit: str
    expressions: Mapping[str, str]


ALERTS = (
    Alert(
        "DrrhoTrainingStalled", "increase(samples_total[15m]) == 0", "5m", "critical",
        "Run {{ $labels.run }} has taken no step for 15 minutes",
        "Look at the log of its pods: a rank may be gone, or the store may not answer.",
    ),
    Alert(
        "DrrhoLossNotFinite", "max_over_time(nonfinite_steps_total[15m]) > 0", "0m", "critical",
        "The loss of run {{ $labels.run }} is not finite",
        "The run has stopped. Lower the learning rate, or raise the warm-up or the temperature, under a new name.",
    ),
    Alert(
        "DrrhoThroughputFell", "samples_per_second < 0.5 * quantile_over_time(0.9, samples_per_second[6h])", "15m", "warning",
        "Run {{ $labels.run }} is less than half as fast as it was",
        "Compare data_wait_seconds with step_seconds: the store, or a node.",
    ),
    Alert(
        "DrrhoDataStarved", "data_wait_seconds / step_seconds > 0.3", "15m", "warning",
        "Run {{ $labels.run }} waits for data in {{ $value | humanizePercentage }} of its time",
        "Raise train.workers, or the CPUs of the pods.",
    ),
    Alert(
        "DrrhoCheckpointTooOld", "changes(checkpoint_step[1h]) == 0", "1h", "warning",
        "Run {{ $labels.run }} has written no checkpoint for an hour",
        "What it does until the next one would be lost: lower train.checkpoint_steps, or see whether the store takes writes.",
    ),
    Alert(
        "DrrhoReferenceDoesNotHelp",
        'avg_over_time(pairwise_loss_variance{of="rho"}[30m]) > ignoring(of) '
        'avg_over_time(pairwise_loss_variance{of="target"}[30m]) and on(run, instance) epoch >= 1',
        "1h", "info",
        "In run {{ $labels.run }} Var(l - l_ref) is above Var(l) on the {{ $labels.side }} side",
        "The reference explains none of the loss: ask `drrho advise` for another, or train without.",
    ),
    Alert(
        "DrrhoSamplesSkipped",
        "sum without(reason) (rate(samples_skipped_total[30m])) > 0.01 * rate(samples_total[30m])",
        "15m", "warning",
        "Run {{ $labels.run }} cannot use more than 1% of its samples",
        "The log names them; ingest the data again under a new name.",
    ),
)  # fmt: skip

OF_ONE_RUN = (
    Panel("Loss", "none", {"loss": "loss", "{{part}}": "loss_part"}),
    Panel("Variance of the pairwise losses", "none", {"{{side}}, {{of}}": "pairwise_loss_variance"}),
    Panel("Throughput", "samples/s", {"samples/s": "samples_per_second", "mean of 5 minutes": "rate(samples_total[5m])"}),
    Panel("Time of a step", "s", {"step": "step_seconds", "of it, the slowest rank's wait for data": "data_wait_seconds"}),
    Panel("Wait for data, by rank", "s", {"{{rank}}": "rank_data_wait_seconds"}),
    Panel("Temperature and gamma", "none", {"temperature": "temperature", "gamma": "gamma"}),
    Panel("Effective number of negatives", "none", {"{{side}}": "weight_effective_size"}),
    Panel("Learning rate", "none", {"learning rate": "learning_rate"}),
    Panel("Norm of the gradient", "none", {"norm": "grad_norm", "steps that are not finite": "nonfinite_steps_total"}),
    Panel("Samples that could not be used", "none", {"{{reason}}": "samples_skipped_total"}),
    Panel("Progress", "none", {"step": "step", "of": "steps", "last checkpoint": "checkpoint_step", "epoch": "epoch"}),
    Panel("Time of a checkpoint", "s", {"checkpoint": "checkpoint_seconds", "standstill": "checkpoint_stall_seconds"}),
    Panel(
        "Memory of the accelerator", "bytes", {"peak": "device_memory_bytes", "peak of rank {{rank}}": "rank_device_memory_bytes"}
    ),
)
OF_ALL_RUNS = (
    Panel("Throughput", "samples/s", {"{{run}}": "samples_per_second"}),
    Panel("Loss", "none", {"{{run}}": "loss"}),
    Panel(
        "Var(l - l_ref) over Var(l)", "none",
        {
            "{{run}}, {{side}}": 'pairwise_loss_variance{of="rho"} / ignoring(of) pairwise_loss_variance{of="target"}'
        },
    ),
    Panel("Samples seen", "none", {"{{run}}": "samples_total"}),
    Panel("Share of the time that waits for data", "percentunit", {"{{run}}": "data_wait_seconds / step_seconds"}),
    Panel("Duration of the last short step", "s", {"{{stage}}": "stage_seconds", "{{stage}} failed": "stage_failed"}),
    Panel(
        "Samples of the last short step", "none",
        {"{{stage}}": "stage_samples", "{{stage}} could not use: {{reason}}": "stage_samples_skipped"},
    ),
    Panel("Zero-shot accuracy of the last evaluation", "percentunit", {"top-1": "zero_shot_accuracy"}),
)  # fmt: skip


def promql(expression: str, *, selector: str = "") -> str:
    """The expression with the metrics' full names, every one of which exists; `selector` is added to each."""
    names = {metric.name for metric in METRICS}

    def full(match: re.Match[str]) -> str:
        name, labels = match["name"], (match["labels"] or "").strip("{}")
        if name not in names:
            return match[0]
        both = ",".join(part for part in (labels, selector) if part)
        return PREFIX + name + (f"{{{both}}}" if both else "")

    return re.sub(r'(?<![\w"])(?P<name>[a-z_]+)(?P<labels>\{[^}]*\})?(?![\w("])', full, expression)


def rules() -> dict[str, Any]:
    """The rule groups, as Prometheus itself reads them and as the resource PrometheusRule holds them."""
    return {
        "groups": [
            {
                "name": "drrho-clip",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": promql(alert.expression),
                        "for": alert.lasting,
                        "labels": {"severity": alert.severity},
                        "annotations": {"summary": alert.summary, "description": alert.action},
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }


def dashboard(title: str, panels: Sequence[Panel], *, one_run: bool) -> dict[str, Any]:
    """A Grafana dashboard: two graphs a row; the data source and (of one run) the run are chosen at its top."""
    selector = 'run="$run"' if one_run else ""
    source = {"type": "prometheus", "uid": "${source}"}
    variables: list[dict[str, Any]] = [{"name": "source", "type": "datasource", "query": "prometheus"}]
    if one_run:
        query = f"label_values({PREFIX}step, run)"
        variables.append({"name": "run", "type": "query", "datasource": source, "query": query, "refresh": 2, "sort": 1})
    return {
        "uid": "drrho-clip-run" if one_run else "drrho-clip-runs",
        "title": title,
        "tags": ["drrho-clip"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_graph(number, panel, source, selector) for number, panel in enumerate(panels)],
    }


def _graph(number: int, panel: Panel, source: Mapping[str, str], selector: str) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"lineWidth": 2, "fillOpacity": 0}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + i), "datasource": source, "expr": promql(expression, selector=selector), "legendFormat": legend}
            for i, (legend, expression) in enumerate(panel.expressions.items())
        ],
    }


def pod_monitor() -> dict[str, Any]:
    """What the Prometheus operator scrapes: the port `metrics` of training pods, with the run's name as a label."""
    label = "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", RUN_LABEL)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "drrho-clip", "labels": APP},
        "spec": {
            "selector": {"matchLabels": APP},
            "podMetricsEndpoints": [
                {"port": PORT, "interval": "15s", "relabelings": [{"sourceLabels": [label], "targetLabel": "run"}]}
            ],
        },
    }


def files() -> dict[str, str]:
    """Every file of k8s/monitoring by its path there."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "drrho-clip", "labels": APP},
        "spec": rules(),
    }
    boards = {
        "dashboards/run.json": dashboard("drrho-clip: one run", OF_ONE_RUN, one_run=True),
        "dashboards/runs.json": dashboard("drrho-clip: all runs", OF_ALL_RUNS, one_run=False),
    }
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",  # so that an overlay may leave it out
        "resources": ["pod-monitor.yaml", "rules.yaml"],
        "configMapGenerator": [{"name": "drrho-clip-dashboards", "files": list(boards)}],
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {**APP, "grafana_dashboard": "1"}},
    }
    objects = {"pod-monitor.yaml": pod_monitor(), "rules.yaml": rule, "kustomization.yaml": kustomization}
    made = "# Made by `make docs` from tools/monitoring.py.\n"
    return {
        **{name: made + yaml.safe_dump(content, sort_keys=False, width=130) for name, content in objects.items()},
        **{name: json.dumps(board, indent=1) + "\n" for name, board in boards.items()},
    }


def main() -> None:
    """Write the files."""
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
