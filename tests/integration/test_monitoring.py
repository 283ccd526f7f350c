"""Rules and dashboards against a real Prometheus (Debian's) that scrapes a real training run."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.observe.metrics import METRICS, PREFIX
from drrho_clip.storage import Store
from drrho_clip.training import TrainConfig, train

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s/monitoring"
RUN = {"run": "pets", "instance": "a:1", "job": "drrho"}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    """prometheus and promtool, from the PATH or fetched once into the user's cache."""
    found = {name: shutil.which(name) for name in ("prometheus", "promtool")}
    if all(found.values()):
        return {name: str(path) for name, path in found.items()}
    if not shutil.which("apt-get"):
        pytest.skip("Prometheus is not on the PATH, and this machine has no apt-get to fetch Debian's")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drrho-clip/prometheus"
    subprocess.run([ROOT / "tools/debian.sh", "prometheus", cache], check=True, stdin=subprocess.DEVNULL, timeout=240)
    return {name: str(cache / "usr/bin" / name) for name in found}


@pytest.fixture(scope="module")
def monitoring() -> dict[str, Any]:
    """What the generator defines."""
    return runpy.run_path(str(ROOT / "tools/monitoring.py"))


@pytest.fixture(scope="module")
def rules(monitoring: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as a file of Prometheus' own."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(monitoring["rules"]()))
    return path


def test_the_files_are_what_the_generator_makes(monitoring: dict[str, Any]):
    there = {str(path.relative_to(MONITORING)): path.read_text() for path in MONITORING.rglob("*") if path.is_file()}
    assert there == monitoring["files"](), "run `make docs`"


def test_every_metric_is_shown_and_every_name_exists(monitoring: dict[str, Any]):
    text = "".join(monitoring["files"]().values())
    assert [metric.name for metric in METRICS if PREFIX + metric.name not in text] == []
    assert monitoring["promql"]("los + rate(step[5m])") == "los + rate(drrho_step[5m])"
    assert monitoring["promql"]('loss_part{part="image"} / loss', selector='run="$run"') == (
        'drrho_loss_part{part="image",run="$run"} / drrho_loss{run="$run"}'
    )


def test_the_rules_are_valid(tools: dict[str, str], rules: Path):
    checked = subprocess.run([tools["promtool"], "check", "rules", rules], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "7 rules found" in checked.stdout


CASES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    # alert: series that make it fire, series that do not (a value every minute), when it is looked at
    "DrrhoTrainingStalled": ({"samples_total": "0+1000x5 5000x40"}, {"samples_total": "0+1000x45"}, "40m"),
    "DrrhoLossNotFinite": ({"nonfinite_steps_total": "0 0 1x10"}, {"nonfinite_steps_total": "0x12"}, "10m"),
    "DrrhoThroughputFell": ({"samples_per_second": "1000x60 400x40"}, {"samples_per_second": "1000x60 700x40"}, "90m"),
    "DrrhoDataStarved": (
        {"data_wait_seconds": "0.4x30", "step_seconds": "1x30"},
        {"data_wait_seconds": "0.2x30", "step_seconds": "1x30"},
        "25m",
    ),
    "DrrhoCheckpointTooOld": ({"checkpoint_step": "0x150"}, {"checkpoint_step": "0x40 100x40 200x40 300x40"}, "140m"),
    "DrrhoReferenceDoesNotHelp": (
        {
            'pairwise_loss_variance{side="image",of="rho"}': "0.3x120",
            'pairwise_loss_variance{side="image",of="target"}': "0.2x120",
            "epoch": "2x120",
        },
        {
            'pairwise_loss_variance{side="image",of="rho"}': "0.3x120",
            'pairwise_loss_variance{side="image",of="target"}': "0.2x120",
            "epoch": "0x120",  # a young model's losses spread little
        },
        "100m",
    ),
    "DrrhoSamplesSkipped": (
        {"samples_total": "0+1000x60", 'samples_skipped_total{reason="decode"}': "0+30x60"},
        {"samples_total": "0+1000x60", 'samples_skipped_total{reason="decode"}': "0+5x60"},
        "50m",
    ),
}


def test_every_rule_has_a_case(monitoring: dict[str, Any]):
    assert [alert.name for alert in monitoring["ALERTS"]] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_only_then(name: str, tools: dict[str, str], rules: Path, monitoring: dict[str, Any]):
    *series, at = CASES[name]
    alert = next(alert for alert in monitoring["ALERTS"] if alert.name == name)
    tests = []
    for fires, values in zip((True, False), series, strict=True):
        labels = RUN | {"severity": alert.severity} | ({"side": "image"} if name == "DrrhoReferenceDoesNotHelp" else {})
        summary = alert.summary.replace("{{ $labels.run }}", "pets").replace("{{ $labels.side }}", "image")
        summary = summary.replace("{{ $value | humanizePercentage }}", "40%")
        expected = {"exp_labels": labels, "exp_annotations": {"summary": summary, "description": alert.action}}
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": labelled(key), "values": value} for key, value in values.items()],
                "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": [expected] if fires else []}],
            }
        )
    case = rules.with_name(f"{name}.yaml")
    case.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": tests}))
    result = subprocess.run([tools["promtool"], "test", "rules", case.name], cwd=case.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def labelled(series: str) -> str:
    name, _, own = series.partition("{")
    labels = ",".join([*([own.rstrip("}")] if own else []), *(f'{key}="{value}"' for key, value in RUN.items())])
    return f"{PREFIX}{name}{{{labels}}}"


def test_every_expression_answers_while_a_run_is_scraped(
    tools: dict[str, str], monitoring: dict[str, Any], scenes_store: Store, tmp_path: Path
):
    answers: dict[str, int] = {}
    metrics_port = free_port()

    def scraped(arguments: list[str]) -> None:
        process = subprocess.Popen([sys.executable, "-m", "drrho_clip.training", *arguments], stderr=subprocess.DEVNULL)
        with prometheus(tools["prometheus"], metrics_port, tmp_path) as ask:
            wait(lambda: len(ask(f"count_over_time({PREFIX}step[1m]) > 3 and {PREFIX}step > 0")) > 0)
            for expression in expressions(monitoring):
                answers[expression] = len(ask(expression))
            process.terminate()
        process.wait()

    config = TrainConfig.parse(
        {
            "run": "pets", "dataset": "scenes", "method": "drrho", "reference": "ref", "architecture": "drrho-nano",
            "batch_size": 32, "samples": 32 * 20_000, "temperature": 0.1, "log_steps": 1, "metrics_port": metrics_port,
        }
    )  # fmt: skip
    with pytest.raises(Exception, match="without a summary"):
        train(config, scenes_store, launch=scraped)
    assert len(answers) > 25
    assert [expression for expression, count in answers.items() if count == 0] == []
    assert answers["drrho_pairwise_loss_variance"] == 4


def expressions(monitoring: dict[str, Any]) -> list[str]:
    """Of every panel (for the run `pets`), and of every rule up to its comparison, which a healthy run does not meet."""
    boards = [json.loads(text) for name, text in monitoring["files"]().items() if name.endswith(".json")]
    shown = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    watched = []
    for alert in monitoring["ALERTS"]:
        sides = alert.expression.replace(" and on(run, instance) epoch >= 1", "").replace(" ignoring(of)", "")
        for operator in (" == ", " > ", " < "):
            sides = sides.replace(operator, "\n")
        watched += [monitoring["promql"](side) for side in sides.split("\n") if not side.strip().isdigit() and side != "0.3"]
    every_window = [expression.replace("[6h]", "[1m]") for expression in (*shown, *watched)]
    return [expression.replace("$run", "pets") for expression in every_window] + [f"{PREFIX}pairwise_loss_variance"]


@contextmanager
def prometheus(program: str, target: int, folder: Path) -> Iterator[Callable[[str], list[Any]]]:
    """A server that scrapes the run every second, as the PodMonitor would; yields a function that asks it."""
    config = {
        "scrape_configs": [
            {
                "job_name": "drrho",
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": {"run": "pets"}}],
            }
        ]
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [program, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with open(folder / "prometheus.log", "w") as log:
        server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log, stdout=log)

    def ask(expression: str) -> list[Any]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=10) as answer:
            result: list[Any] = json.load(answer)["data"]["result"]
        return result

    try:
        yield ask
    finally:
        server.terminate()
        server.wait()


def wait(ready: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except OSError:
            pass  # the server is not up yet
        time.sleep(0.5)
    raise AssertionError("Prometheus has seen nothing of the run")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
