from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from drrho_clip.errors import ConfigError, LaunchError
from drrho_clip.storage import Store
from drrho_pipelines.compile import compile_pipelines
from drrho_pipelines.local import run_local
from drrho_pipelines.output import Output


@pytest.fixture(scope="module")
def steering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (compiled,) = compile_pipelines(tmp_path_factory.mktemp("dist"), names=("steering",))
    return compiled


def test_a_failing_step_is_named_with_its_own_reason(steering: Path, folder_store: Store, tmp_path: Path):
    shown = io.StringIO()
    parameters = {"store": folder_store.uri, "data_source": "folder", "data_path": str(tmp_path / "none")}
    with pytest.raises(LaunchError) as error:
        run_local(steering, parameters, tmp_path / "root", Output(shown))
    assert str(error.value).startswith("The step 'ingest' failed: The folder does not exist")
    assert "\033" not in str(error.value)
    assert all(json.loads(line)["component"] == "ingest" for line in shown.getvalue().splitlines())
    assert list(folder_store.list()) == []


def test_parameters_are_checked_before_anything_starts(steering: Path, tmp_path: Path):
    for parameters, message in {
        ("train_sead", "1"): "no parameter 'train_sead'",
        ("train_seed", "one"): "takes a value of the type integer",
        ("data_path", "/usr/lib/python3/x"): "data_path contains 'python3'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run_local(steering, dict([parameters]), tmp_path / "root")
    assert not (tmp_path / "root").exists()


def mentioning(text: str) -> list[int]:
    """The processes that have `text` on their command line, this one left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if text.encode() in command and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def stopped(command: list[str], number: int, sign: str, folder: Path) -> tuple[int, str]:
    """Start a command, send it a signal when its output holds `sign`; return its exit code and what it said after that."""
    command = [sys.executable, "-m", "drrho_pipelines.cli", *command]
    # Where the tests themselves run in the background of a shell, Ctrl-C's signal would be ignored from the start.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=listening) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if sign in text:
                break
        assert len(mentioning(str(folder))) > 1
        process.send_signal(number)
        rest = process.stdout.read()
    return process.returncode, rest


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopping_a_run_leaves_no_process_behind(number: int, code: int, tmp_path: Path):
    options = ["--store", str(tmp_path / "store"), "--root", str(tmp_path / "root")]
    settings = ["--set", "ingest.source=scenes", "--set", "ingest.samples=500000", "--set", "train.method=openclip"]
    found, rest = stopped(["pipeline", "run", *options, *settings], number, '"settings"', tmp_path)
    assert found == code
    assert mentioning(str(tmp_path)) == []
    assert "Traceback" not in rest


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopping_the_demo_stops_its_server(number: int, code: int, tmp_path: Path):
    (tmp_path / "demo.yaml").write_text("ingest: {source: scenes, samples: 500000}\n")
    options = ["--config", str(tmp_path / "demo.yaml"), "--folder", str(tmp_path / "demo")]
    found, rest = stopped(["demo", *options], number, "[1/7]", tmp_path)
    assert found == code
    assert mentioning(str(tmp_path)) == []
    assert "Traceback" not in rest


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def line(**record: object) -> str:
    return "    " + json.dumps({"level": "info", "component": "train", **record}) + "\n"


def test_log_lines_pass_and_the_runners_noise_is_kept_for_failures():
    shown = io.StringIO()
    output = Output(shown)
    for text in (
        "12:00 - INFO - Executing task \033[96m'train'\033[0m\n",
        line(event="step", loss=1.0),
        "  File x\n",
        "-----\n",
        "\n",
    ):
        output.line(text)
    assert json.loads(shown.getvalue()) == {"level": "info", "component": "train", "event": "step", "loss": 1.0}
    assert (output.task, output.tail) == ("train", ["File x"])


@pytest.mark.parametrize("text", ['    {"a": 1}', "    {not json}", '    ["event"]', '{"event": 3}'])
def test_what_is_no_log_line_of_ours_is_noise(text: str):
    shown = io.StringIO()
    Output(shown).line(text)
    assert shown.getvalue() == ""
    Output(shown, verbose=True).line(text)
    assert shown.getvalue().strip() == text.strip()


def test_a_terminal_gets_bars_and_short_lines():
    shown = Terminal()
    output = Output(shown)
    for done in (3, 10):
        output.line(line(event="progress", what="train r", done=done, total=10, unit="step"))
    output.line(line(event="settings", seed=1))
    output.line(line(event="train_done", samples=3))
    output.close()
    assert "train r" in shown.getvalue()
    assert "10/10" in shown.getvalue()
    assert shown.getvalue().count("0/10") == 2  # one bar: its start, and the end of 10/10
    assert "train      train done samples=3" in shown.getvalue()
    assert "seed" not in shown.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_quiet_leaves_warnings(stream: io.StringIO):
    output = Output(stream, quiet=True)
    output.line(line(event="checkpointed"))
    output.line(line(event="sample_skipped", level="warning"))
    assert "checkpointed" not in stream.getvalue()
    assert "skipped" in stream.getvalue()
