"""Waiting for a run: every way in which it, the server, the token or the person may end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import drrho_pipelines
from drrho_clip.errors import NotKnown
from drrho_pipelines.server.address import Address
from drrho_pipelines.server.connection import Server
from drrho_pipelines.server.waiting import wait_for
from kfp_stand_in import Execution, StandIn
from server_helpers import OUR_REASON, STORE, TRACEBACK, after_looks, fails, runs_on, runs_until, submit

pytestmark = pytest.mark.usefixtures("nobody_elses_settings")


def test_steps_are_told_as_they_change(capsys: pytest.CaptureFixture[str], finish: threading.Event):
    with StandIn(runs_until(finish)) as server:
        after_looks(server, 3, finish.set)
        assert submit(server, "--wait") == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [(event.get("step"), event["state"]) for event in events]
    assert len(told) == len(set(told))
    assert told.index(("train", "RUNNING")) < told.index(("train", "SUCCEEDED"))
    assert (None, "SUCCEEDED") in told


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (OUR_REASON + "I1125 launcher ends\n", "There is no dataset 'pets'."),
        (TRACEBACK, "ValueError: 3 is too many"),
        ("one\ntwo\n", "two"),
        ("", "its log is empty"),
    ],
    ids=["our reason", "an exception", "no reason", "an empty log"],
)
def test_a_run_that_fails_is_1_with_the_step_its_reason_and_last_lines(log: str, reason: str, capsys: pytest.CaptureFixture[str]):
    lines = "".join(f"line {number}\n" for number in range(30))
    with StandIn(fails(lines + log if log else "")) as server:
        assert submit(server, "--wait") == 1
        (run_id,) = server.objects.runs
        *told, last = capsys.readouterr().err.splitlines()
        assert last.startswith(f"The step 'evaluate' failed: {reason.rstrip('.')}")
        assert f"{server.url}/#/runs/details/{run_id}" in last
    shown = [line.strip() for line in told if line.startswith("  evaluate | ")]
    assert ("evaluate | line 29" in shown) == bool(log)
    assert "evaluate | line 3" not in shown
    assert all(f"evaluate | {line.rstrip()}" in shown for line in log.splitlines() if line.strip())


def test_the_reason_of_a_log_that_is_gone_says_where_it_may_be(capsys: pytest.CaptureFixture[str]):
    def run(execution: Execution) -> None:
        fails("x")(execution)
        execution.read_log = {}.__getitem__

    with StandIn(run) as server:
        assert submit(server, "--wait") == 1
    assert "its log cannot be had" in (message := capsys.readouterr().err.splitlines()[-1])
    assert "executor-logs" in message


def test_a_step_that_never_got_a_pod_fails_with_its_drivers_words(capsys: pytest.CaptureFixture[str]):
    def run(execution: Execution) -> None:
        execution.prepare("ingest")
        execution.read_log = lambda pod: f"secret of {pod} not found"
        execution.end("ingest", state="FAILED")

    with StandIn(run) as server:
        assert submit(server, "--wait") == 1
    assert "The step 'ingest' failed: secret of steering-" in capsys.readouterr().err


def test_a_run_that_lasts_too_long_is_3_and_goes_on(capsys: pytest.CaptureFixture[str]):
    with StandIn(runs_on) as server:
        assert submit(server, "--wait", "--timeout", "1s") == 3
        ((run_id, execution),) = server.objects.executions.items()
        assert execution.state == "RUNNING"
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("The run is RUNNING after 1.0 seconds")
    assert f"drrho pipeline status {run_id} --wait" in message


def test_a_server_that_goes_away_for_a_while_is_waited_for(capsys: pytest.CaptureFixture[str], finish: threading.Event):
    def away() -> None:
        server.stop()
        time.sleep(1.5)
        finish.set()
        server.start()

    with StandIn(runs_until(finish)) as server:
        after_looks(server, 1, away)
        assert submit(server, "--wait") == 0
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert "no_answer" in events


@pytest.mark.parametrize("limit", [{"timeout": 3.0}, {"patience": 2.0}])
def test_a_server_that_stays_away_is_3(limit: dict[str, float], finish: threading.Event):
    with StandIn(runs_until(finish)) as stand_in:
        started = drrho_pipelines.submit("steering", {"store": "s3://b"}, host=stand_in.url)
        server = Server(Address(host=stand_in.url))
        stand_in.stop()
        with pytest.raises(
            NotKnown, match=r"No answer: .* The run itself goes on; to wait again: drrho pipeline status"
        ) as error:
            wait_for(server, started.run_id, every=0.1, **limit)
    assert error.value.exit_code == 3


def test_a_token_that_runs_out_is_asked_for_again(tmp_path: Path, finish: threading.Event):
    with StandIn(runs_until(finish), token_uses=5) as server:
        (tmp_path / "token.py").write_text(
            f"import urllib.request as u\nprint(u.urlopen('{server.url}/stand-in/token').read().decode())\n"
        )
        after_looks(server, 12, finish.set)
        assert submit(server, "--wait", "--token-command", f"{sys.executable} {tmp_path / 'token.py'}") == 0
        asked = [path for _, path in server.requests].count("/stand-in/token")
        assert 1 < asked < len(server.requests) / 3


def test_a_token_that_is_renewed_in_its_file_is_used(tmp_path: Path, finish: threading.Event):
    file = tmp_path / "token"

    def renew() -> None:
        while not finish.is_set():
            (tmp_path / "new").write_text(server.new_token())
            (tmp_path / "new").replace(file)
            finish.wait(0.2)

    with StandIn(runs_until(finish), token_uses=40) as server:
        file.write_text(server.new_token())
        threading.Thread(target=renew, daemon=True).start()
        after_looks(server, 50, finish.set)
        assert submit(server, "--wait", "--token-file", str(file)) == 0


def test_a_token_file_that_is_away_for_a_moment_is_waited_for(tmp_path: Path, finish: threading.Event):
    file = tmp_path / "token"

    def away() -> None:
        file.rename(tmp_path / "elsewhere")
        time.sleep(1.5)
        finish.set()
        (tmp_path / "elsewhere").rename(file)

    with StandIn(runs_until(finish), token_uses=1000) as server:
        file.write_text(server.new_token())
        after_looks(server, 2, away)
        assert submit(server, "--wait", "--token-file", str(file)) == 0


def test_a_run_that_is_cancelled_is_1_and_says_so(capsys: pytest.CaptureFixture[str]):
    with StandIn(runs_on) as server:
        after_looks(server, 2, lambda: next(iter(server.objects.executions.values())).terminate())
        assert submit(server, "--wait") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("The run was cancelled (")


def test_ctrl_c_is_130_and_leaves_the_run(tmp_path: Path):
    with StandIn(runs_on) as server:
        command = [sys.executable, "-m", "drrho_pipelines.cli", "pipeline", "submit", "steering", *STORE, "--wait"]
        with subprocess.Popen(
            [*command, "--every", "0.1", "--host", server.url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stderr is not None
            assert any('"train"' in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            *_, last = process.stderr.read().splitlines()
        ((run_id, execution),) = server.objects.executions.items()
        assert process.returncode == 130
        assert last.startswith("Stopped waiting (")
        assert last.endswith(f"The run goes on. To end it: drrho pipeline cancel {run_id}")
        assert execution.state == "RUNNING"


def test_the_servers_first_word_on_a_failed_run_may_be_late(capsys: pytest.CaptureFixture[str]):
    """A run was seen as FAILED with all its steps still RUNNING: the step is looked for until it is shown."""
    with StandIn(fails(TRACEBACK)) as server:
        assert submit(server, "--wait") == 1
        states = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    told = [(event.get("step"), event["state"]) for event in states]
    assert told.index((None, "FAILED")) < told.index(("evaluate", "FAILED"))
