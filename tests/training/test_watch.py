"""`drrho watch`: a run that trains in another process, as the store and the terminal show it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from drrho_clip.cli import make_app, run_app
from drrho_clip.errors import TrainingError
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.launch import run_locally
from terminal_helpers import shown_by

COMMAND = [sys.executable, "-m", "drrho_pipelines.cli", "watch"]


def settings(run: str = "pets", **changed: object) -> TrainConfig:
    return TrainConfig.parse(
        {
            "run": run, "dataset": "scenes", "method": "drrho", "reference": "ref", "architecture": "drrho-nano",
            "batch_size": 32, "samples": 32 * 20, "warmup_steps": 2, "temperature": 0.1, "log_steps": 1, "checkpoint_steps": 8,
            **changed,
        }
    )  # fmt: skip


def seen(store: Store, run: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, run, "--store", store.uri, *options], capture_output=True, text=True, timeout=120)


def watched_from_outside(store: Store, run: str, launch: Callable[[list[str]], None]) -> tuple[int, list[dict]]:
    """Train with `launch` while another process watches: its exit code and what it printed."""
    watchers = []

    def start_both(arguments: list[str]) -> None:
        command = [*COMMAND, run, "--store", store.uri, "--every", "0.1"]
        watchers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        launch(arguments)

    bad = {"learning_rate": 1e30, "method": "openclip", "warmup_steps": 0}
    with pytest.raises(TrainingError) if run == "bad" else nullcontext():
        train(settings(run, **(bad if run == "bad" else {})), store, start_both)
    printed, _ = watchers[0].communicate(timeout=120)
    return watchers[0].returncode, [json.loads(line) for line in printed.splitlines()]


def test_a_run_is_followed_to_its_end(scenes_store: Store):
    code, lines = watched_from_outside(scenes_store, "pets", run_locally)
    assert code == 0
    assert [line["state"] for line in lines][-1] == "finished"
    last = lines[-1]
    assert (last["step"], last["steps"], last["seconds_left"]) == (20, 20, 0.0)
    assert {"loss", "variance_of_loss", "variance_of_rho", "samples_per_second"} <= set(last)
    assert any(line["state"] == "running" and line["step"] < 20 for line in lines)


def test_a_run_that_fails_is_said_with_its_reason(scenes_store: Store):
    code, lines = watched_from_outside(scenes_store, "bad", run_locally)
    assert code == 1
    assert lines[-1]["state"] == "failed"
    assert "not finite" in lines[-1]["detail"]


def test_a_killed_run_is_said_and_the_next_attempt_forgets_it(scenes_store: Store):
    def kill(arguments: list[str]) -> None:
        process = subprocess.Popen([sys.executable, "-m", "drrho_clip.training", *arguments], stderr=subprocess.PIPE)
        assert process.stderr is not None
        next(line for line in process.stderr if b'"event": "step"' in line)
        process.kill()
        process.communicate()

    with pytest.raises(TrainingError):
        train(settings(), scenes_store, launch=kill)
    found = seen(scenes_store, "pets", "--once")
    assert (found.returncode, json.loads(found.stdout)["state"]) == (1, "failed")
    train(settings(), scenes_store)
    assert scenes_store.head(layout.run_failure("pets")) is None
    assert json.loads(seen(scenes_store, "pets", "--once").stdout)["state"] == "finished"


def recorded(store: Store, *, rows: int) -> None:
    """A run that somebody else trains, or trained: settings and so many records, no end."""
    store.write(layout.run_config("pets"), json.dumps(settings(samples=32 * 100_000).model_dump()).encode())
    record = {"loss": 2.5, "step_seconds": 0.5, "samples_per_second": 64.0}
    lines = [json.dumps({"step": step, **record}) for step in range(1, rows + 1)]
    store.write(layout.run_metrics("pets"), ("\n".join(lines) + "\n").encode())


def test_only_the_end_of_a_long_record_is_read(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    recorded(store, rows=20_000)
    whole = type(store).read

    def read(self: Store, key: str, **named: str) -> bytes:
        assert key != layout.run_metrics("pets")
        return whole(self, key, **named)

    monkeypatch.setattr(type(store), "read", read)
    assert run_app(make_app(), ["watch", "pets", "--store", store.uri, "--once"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["step"], shown["seconds_left"]) == ("running", 20_000, 40_000.0)


def test_a_run_that_nobody_trains_is_given_up(folder_store: Store):
    recorded(folder_store, rows=3)
    found = seen(folder_store, "pets", "--every", "0.1", "--patience", "1")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.returncode == 3
    assert [line["state"] for line in lines] == ["running", "silent"]
    assert "Nothing new for 1 s" in lines[-1]["detail"]


def test_ctrl_c_leaves_the_run_alone(folder_store: Store):
    recorded(folder_store, rows=3)
    command = ["env", "--default-signal=INT", *COMMAND, "pets", "--store", folder_store.uri]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["step"] == 3
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pest", "--store", "STORE"], "There is no run 'pest'.*Did you mean pets"),
        (["pets"], "No store is named.*--store"),
        (["--store", "STORE"], "No run is named"),
        (["pets", "--prometheus", "http://127.0.0.1:1"], r"Prometheus does not answer.*127\.0\.0\.1:1"),
        (["pets", "--prometheus", "nonsense"], "Prometheus does not answer.*nonsense"),
        (["../pets", "--store", "STORE"], "cannot be the name of a run"),
    ],
)
def test_what_cannot_be_watched_is_said(
    folder_store: Store, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    recorded(folder_store, rows=1)
    assert run_app(make_app(), ["watch", *(folder_store.uri if word == "STORE" else word for word in arguments)]) == 2
    assert re.search(expected, capsys.readouterr().err)


def test_a_terminal_shows_one_line_that_is_drawn_anew(folder_store: Store, monkeypatch: pytest.MonkeyPatch):
    recorded(folder_store, rows=3)
    monkeypatch.setenv("COLUMNS", "100")
    code, shown = shown_by([*COMMAND, "pets", "--store", folder_store.uri, "--every", "0.1", "--patience", "1"], "stdout")
    assert code == 3
    first, *others = shown.replace("\r\n", "\n").split("\n")
    drawn = [text.removesuffix("\033[K") for text in first.split("\r") if text]
    assert drawn[0] == "pets running: step 3/100,000 (0%)  loss 2.5  64 samples/s  13:53:18 left"
    assert drawn[-1].startswith("pets silent: step 3/100,000")
    assert others[0].startswith("Nothing new for 1 s")
