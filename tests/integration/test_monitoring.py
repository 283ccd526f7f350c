"""Rules and dashboards against a real Prometheus (Debian's) that scrapes a real training run."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from drrho_clip.cli import make_app, run_app
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.errors import DrrhoError
from drrho_clip.evaluation import EvaluateConfig, evaluate
from drrho_clip.observe import configure_logs
from drrho_clip.observe.metrics import METRICS, PREFIX, SKIPPED, STAGES
from drrho_clip.observe.push import GATEWAY
from drrho_clip.reference import ReferenceConfig, compute_reference
from drrho_clip.storage import Store
from drrho_clip.training import TrainConfig, train

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s/monitoring"
RUN = {"run": "pets", "instance": "a:1", "job": "drrho"}


def debian(package: str, *programs: str) -> dict[str, str]:
    """Programs from the PATH, or of Debian's package, fetched once into the user's cache."""
    found = {name: shutil.which(name) for name in programs}
    if all(found.values()):
        return {name: str(path) for name, path in found.items()}
    if not shutil.which("apt-get"):
        pytest.skip(f"{package} is not on the PATH, and this machine has no apt-get to fetch Debian's")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drrho-clip" / package
    subprocess.run([ROOT / "tools/debian.sh", package, cache], check=True, stdin=subprocess.DEVNULL, timeout=240)
    return {name: str(cache / "usr/bin" / name) for name in found}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    """prometheus and promtool."""
    return debian("prometheus", "prometheus", "promtool")


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a running Pushgateway that the environment names."""
    program, port = debian("prometheus-pushgateway", "prometheus-pushgateway")["prometheus-pushgateway"], free_port()
    monkeypatch.setenv(GATEWAY, f"127.0.0.1:{port}")
    server = subprocess.Popen([program, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    wait(lambda: b"pushgateway" in page(port))
    yield port
    server.terminate()
    server.wait()


def page(port: int) -> bytes:
    """What /metrics shows."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        content: bytes = answer.read()
    return content


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
    # read once before its process ends: the alert outlasts it
    "DrrhoLossNotFinite": ({"nonfinite_steps_total": "0 0 1 stale"}, {"nonfinite_steps_total": "0x12"}, "10m"),
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


PICTURES = {"too_small": 3, "empty": 2}


def test_short_steps_push_what_they_did(gateway: int, folder_store: Store, tmp_path: Path):
    pictures(tmp_path / "data")
    ingest(IngestConfig(dataset="pets", source="folder", path=str(tmp_path / "data"), max_bad_fraction=0.9), folder_store)
    assert pushed(gateway, "ingest") == {
        "stage_failed": 0, "stage_samples": 8, 'stage_samples_skipped{reason="size"}': 3,
        'stage_samples_skipped{reason="caption"}': 2,
    }  # fmt: skip
    with pytest.raises(DrrhoError):
        ingest(IngestConfig(dataset="others", source="folder", path=str(tmp_path / "data")), folder_store)
    failed = pushed(gateway, "ingest")
    assert (failed["stage_failed"], failed["stage_samples"]) == (1, 8)


def pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(13):
        side = 4 if number < PICTURES["too_small"] else 32
        Image.new("RGB", (side, side), (number * 9, 80, 90)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(" " if number >= 13 - PICTURES["empty"] else f"a picture, the {number}th")


def pushed(gateway: int, stage: str) -> dict[str, float]:
    """The series of a stage that are not zero, less the time that it took and the gateway's own."""
    found = {}
    for line in page(gateway).decode().splitlines():
        if line.startswith(PREFIX) and f'stage="{stage}"' in line:
            name, _, value = line.rpartition(" ")
            labels = re.search(r'reason="[a-z]+"', name)
            found[name.partition("{")[0].removeprefix(PREFIX) + (f"{{{labels[0]}}}" if labels else "")] = float(value)
    assert found.pop("stage_seconds") > 0
    return {name: value for name, value in found.items() if value or "skipped" not in name}


def test_however_many_runs_there_are_the_series_stay_as_many(gateway: int, scenes_store: Store):
    """Names of runs, datasets, files and errors are in no label."""
    for number in range(12):
        with suppress(DrrhoError):
            ingest(IngestConfig(dataset=f"set{number}", source="folder", path=f"/nowhere/{number}"), scenes_store)
        with suppress(DrrhoError):
            evaluate(EvaluateConfig(run=f"nobody-{number}", dataset="scenes"), scenes_store)
    evaluate(EvaluateConfig(run="ref", dataset="scenes", split="heldout"), scenes_store)
    lines = [line for line in page(gateway).decode().splitlines() if line.startswith(PREFIX)]
    stages = sum(metric.of == "stage" for metric in METRICS) - 1 + len(SKIPPED)
    assert 0 < len(lines) <= len(STAGES) * stages
    assert not re.search(r"nobody|set\d|nowhere", "".join(lines))
    assert f'{PREFIX}zero_shot_accuracy{{instance="",job="drrho",stage="evaluate"}}' in "".join(lines)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "http://no.such.host.invalid:9091", "host:notaport", "http://u:sesame@127.0.0.1:1"]
)
def test_a_gateway_that_is_away_is_only_logged(
    address: str, scenes_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(GATEWAY, address)
    configure_logs(json=True)
    assert evaluate(EvaluateConfig(run="ref", dataset="scenes", split="heldout"), scenes_store).samples > 0
    said = capsys.readouterr().err
    assert "metrics_not_pushed" in said
    assert "sesame" not in said


def labelled(series: str) -> str:
    name, _, own = series.partition("{")
    labels = ",".join([*([own.rstrip("}")] if own else []), *(f'{key}="{value}"' for key, value in RUN.items())])
    return f"{PREFIX}{name}{{{labels}}}"


def test_every_expression_answers_while_a_run_is_scraped(
    tools: dict[str, str], monitoring: dict[str, Any], scenes_store: Store, gateway: int, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    evaluate(EvaluateConfig(run="ref", dataset="scenes", split="heldout"), scenes_store)
    compute_reference(ReferenceConfig(dataset="scenes", model="run:ref", name="ref", pool=64), scenes_store)
    ingest(IngestConfig(dataset="more", source="scenes", samples=40, image_size=32, workers=1), scenes_store)
    watched: list[dict[str, Any]] = []
    answers: dict[str, int] = {}
    metrics_port = free_port()

    def scraped(arguments: list[str]) -> None:
        process = subprocess.Popen([sys.executable, "-m", "drrho_clip.training", *arguments], stderr=subprocess.DEVNULL)
        with prometheus(tools["prometheus"], metrics_port, gateway, tmp_path) as (url, ask):
            wait(lambda: len(ask(f"count_over_time({PREFIX}step[1m]) > 3 and {PREFIX}step > 0")) > 0)
            for expression in expressions(monitoring):
                answers[expression] = len(ask(expression))
            assert run_app(make_app(), ["watch", "pets", "--prometheus", url, "--once"]) == 0
            watched.append(json.loads(capsys.readouterr().out))
            assert run_app(make_app(), ["watch", "pest", "--prometheus", url]) == 2
            assert "Prometheus knows no run 'pest'" in (said := capsys.readouterr().err)
            assert "Did you mean pets?" in said
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
    assert (watched[0]["state"], watched[0]["steps"]) == ("running", 20_000)
    assert watched[0].keys() >= {"step", "loss", "variance_of_loss", "variance_of_rho", "samples_per_second", "seconds_left"}


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
def prometheus(program: str, target: int, gateway: int, folder: Path) -> Iterator[tuple[str, Callable[[str], list[Any]]]]:
    """A server that scrapes the run every second, as the PodMonitor would, and a Pushgateway: its URL, and what asks it."""
    config = {
        "scrape_configs": [
            {
                "job_name": "drrho",
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": {"run": "pets"}}],
            },
            {
                "job_name": "pushgateway",
                "honor_labels": True,
                "scrape_interval": "1s",
                "static_configs": [{"targets": [f"127.0.0.1:{gateway}"]}],
            },
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
        yield f"http://127.0.0.1:{port}", ask
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
