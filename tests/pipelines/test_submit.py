"""`drrho pipeline submit` and the commands beside it, against the stand-in for the server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import drrho_pipelines
from drrho_clip.cli import run_app
from drrho_clip.errors import ConfigError, RunFailed
from drrho_pipelines.cli import make_full_app
from kfp_stand_in import StandIn
from kfp_stand_in.objects import Taken
from server_helpers import STORE, TRACEBACK, drrho, fails, results, runs_on, submit, succeeds

pytestmark = pytest.mark.usefixtures("nobody_elses_settings")


def test_a_run_that_succeeds(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with StandIn(succeeds) as server:
        settings = ["-p", "train_seed=5.0", "-p", "train_method=fastclip", "--commit", "0123456789abcdef"]
        assert submit(server, "--wait", *settings) == 0
        shown, started, ended = results(output := capsys.readouterr().out)
        ((run_id, run),) = server.objects.runs.items()
        parameters = {"store": "s3://bucket/prefix", "train_seed": 5, "train_method": "fastclip"}
        assert shown == {"result": "parameters", **parameters}, output
        assert run["runtime_config"]["parameters"] == parameters
        assert (started["id"], started["page"]) == (run_id, f"{server.url}/#/runs/details/{run_id}")
        assert ended == {"result": "run", "id": run_id, "state": "SUCCEEDED"}
        version = server.objects.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
        assert version["name"] == started["version"]
        assert started["version"].startswith("0.1.0-01234567-")
        assert run["display_name"].startswith("steering 20")
    assert list((tmp_path / "home").iterdir()) == []


BAD = {
    "unknown pipeline": (["stering"], "There is no pipeline 'stering'. Did you mean steering?"),
    "unknown parameter": (
        ["steering", "-p", "trian_seed=1"],
        "no parameter 'trian_seed' (steering.yaml). Did you mean train_seed",
    ),
    "no whole number": (["steering", "-p", "train_seed=1.5"], "'train_seed' takes a value of the type integer"),
    "out of range": (
        ["steering", *STORE, "-p", "train_batch_size=1"],
        "'train_batch_size': Input should be greater than or equal",
    ),
    "unknown method": (["steering", *STORE, "-p", "train_method=drho"], "unknown method 'drho'. Did you mean drrho?"),
    "no reference": (["steering", *STORE, "-p", "train_method=drrho"], "method 'drrho' needs a reference"),
    "malformed": (["steering", "-p", "train_seed"], "'train_seed' sets nothing (--param)"),
    "folder as store": (["steering", "-p", "store=./store"], "The store './store' is a folder, which pods do not share"),
    "folder in a config": (["steering", "--config", "my.yaml"], "The store 'local' is a folder"),
    "password": (["steering", "-p", "store_endpoint=http://me:pw@host:1"], "endpoint holds a user name or password"),
    "password elsewhere": (
        ["steering", *STORE, "-p", "data_path=https://me:pw@host/x"],
        "'data_path' holds a user name and password",
    ),
    "macro": (["steering", *STORE, "-p", "run=a-[[ScheduledTime]]"], "which Kubeflow Pipelines does not replace"),
    "image": (["steering", *STORE, "--image", "my image"], "'my image' is no image"),
    "timeout": (["steering", *STORE, "--timeout", "soon"], "'soon' is no duration"),
    "two tokens": (["steering", *STORE, "--token-file", "x", "--token-command", "y"], "token_file or token_command, not both"),
    "no token file": (["steering", *STORE, "--token-file", "none"], "The token cannot be read: No such file or directory (none)"),
    "token command": (["steering", *STORE, "--token-command", "false"], "The token command gave no token: it ended with 1"),
    "empty token": (["steering", *STORE, "--token-command", "true"], "That is no token"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_2_and_nothing_is_sent(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("store: local\n")
    with StandIn(succeeds) as server:
        assert drrho(server, "submit", *arguments) == 2
        assert server.requests == []
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("host", ["localhost:8080", "ftp://host", "http://"])
def test_an_address_that_is_none_is_2(host: str, capsys: pytest.CaptureFixture[str]):
    assert drrho(host, "runs") == 2
    assert "is no address of a server" in capsys.readouterr().err


def test_a_password_in_the_address_is_2_and_not_shown(capsys: pytest.CaptureFixture[str]):
    assert drrho("http://me:hunter2@host:1", "runs") == 2
    assert "hunter2" not in (message := capsys.readouterr().err)
    assert "holds a user name or password" in message


def test_no_server_named_is_2(capsys: pytest.CaptureFixture[str]):
    assert run_app(make_full_app(), ["pipeline", "runs"]) == 2
    assert "No Kubeflow Pipelines server is named. Set --host or KFP_ENDPOINT" in capsys.readouterr().err


def test_no_server_there_is_3(capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds) as server:
        pass
    assert submit(server) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"No answer: [Errno 111] Connection refused ({server.url}). Set --host")


class LoginPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<html>Log in</html>")

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_login_page_is_2(capsys: pytest.CaptureFixture[str]):
    with HTTPServer(("127.0.0.1", 0), LoginPage) as page:
        threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        assert submit(f"http://127.0.0.1:{page.server_address[1]}") == 2
        page.shutdown()
    assert "It answers with a web page, as a login does" in capsys.readouterr().err


def test_a_lost_answer_to_the_start_is_3_and_says_where_to_look(capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds) as server:
        server.break_answer("POST /apis/v2beta1/runs")
        assert submit(server, "--run-name", "mine") == 3
        assert "`drrho pipeline runs` shows whether 'mine' was started all the same." in capsys.readouterr().err
        assert drrho(server, "runs") == 0
        assert json.loads(capsys.readouterr().out)["name"] == "mine"


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_token_that_is_not_accepted_is_2(token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("KFP_TOKEN", token)
    with StandIn(succeeds, token_uses=1) as server:
        assert submit(server) == 2
        assert len(server.requests) <= 2
    message = capsys.readouterr().err
    assert "The server does not accept the token" in message
    assert "--token-command" in message


def test_uploading_the_same_twice_is_harmless(capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds) as server:
        assert [submit(server) for _ in range(2)] == [0, 0]
        assert len(server.objects.pipelines) == 1
        assert len(server.objects.versions) == 2  # that of the upload itself, which has the pipeline's name, and ours
        first, second = server.objects.runs.values()
        assert first["pipeline_version_reference"] == second["pipeline_version_reference"]
        assert submit(server, "--commit", "abc") == 0
        assert submit(server, "--no-cache") == 0
        assert len(server.objects.versions) == 4
        *_, uncached = server.objects.versions.values()
        specification = uncached["pipeline_spec"]["pipeline_spec"]
        dags = [part["dag"] for part in (specification["root"], *specification["components"].values()) if "dag" in part]
        assert len(dags) == 5  # the pipeline, and in it a condition with a loop for each of the two steps that pods share
        assert all(task["cachingOptions"] == {} for dag in dags for task in dag["tasks"].values())


def test_somebody_who_uploads_at_the_same_time_is_no_problem(monkeypatch: pytest.MonkeyPatch):
    with StandIn(succeeds) as server:
        for method in ("upload", "upload_version"):
            monkeypatch.setattr(server.objects, method, taken(getattr(server.objects, method)))
        assert submit(server) == 0
        assert (len(server.objects.pipelines), len(server.objects.versions)) == (1, 2)


def taken(upload: Callable[..., Any]) -> Callable[..., Any]:
    def by_somebody_else(*arguments: Any, **named: Any) -> Any:
        upload(*arguments, **named)
        raise Taken("Failed to create a pipeline version")

    return by_somebody_else


def test_python_gets_the_run_or_the_reason():
    with StandIn(succeeds) as server:
        done = drrho_pipelines.submit("steering", {"store": "s3://b", "train_seed": 3.0}, host=server.url, wait=True)
        assert server.objects.runs[done.run_id]["runtime_config"]["parameters"]["train_seed"] == 3
        with pytest.raises(ConfigError, match="unknown key 'hots'"):
            drrho_pipelines.submit("steering", {"store": "s3://b"}, hots=server.url)
    with StandIn(fails(TRACEBACK)) as server, pytest.raises(RunFailed, match="'evaluate' failed: ValueError: 3 is too many"):
        drrho_pipelines.submit("steering", {"store": "s3://b"}, host=server.url, wait=True)


def test_a_config_gives_the_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "my.yaml").write_text("store: s3://bucket/x\ndataset: pets\nreference: {model: run:first}\ntrain: {seed: 7}\n")
    with StandIn(succeeds) as server:
        assert drrho(server, "submit", "steering", "--config", str(tmp_path / "my.yaml"), "-p", "train_gpus=1") == 0
        (run,) = server.objects.runs.values()
    parameters = run["runtime_config"]["parameters"]
    expected = {"store": "s3://bucket/x", "dataset": "pets", "reference_model": "run:first", "train_seed": 7, "train_gpus": "1"}
    assert expected.items() <= parameters.items()


def test_status_logs_and_cancel(capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds) as server:
        assert submit(server, "--wait") == 0
        (run_id,) = server.objects.runs
        capsys.readouterr()
        assert drrho(server, "status", run_id) == 0
        run, steps = results(capsys.readouterr().out)
        assert (run["state"], steps) == ("SUCCEEDED", {"result": "steps", "ingest": "SUCCEEDED", "train": "SUCCEEDED"})
        assert drrho(server, "status", run_id, "--wait") == 0
        capsys.readouterr()
        assert drrho(server, "logs", run_id) == 0
        assert capsys.readouterr().out == "ingest | the log of ingest\ntrain | the log of train\n"
        assert drrho(server, "logs", run_id, "train") == 0
        assert capsys.readouterr().out == "the log of train\n"
        assert drrho(server, "logs", run_id, "trian") == 2
        assert "no step 'trian' that has begun" in (message := capsys.readouterr().err)
        assert "Did you mean train?" in message
        assert drrho(server, "cancel", run_id) == 2
        assert "The run has ended already, as SUCCEEDED" in capsys.readouterr().err
        for command in ("status", "logs", "cancel"):
            assert drrho(server, command, "11111111-2222-3333-4444-555555555555") == 2
            assert "Run 11111111-2222-3333-4444-555555555555 not found" in capsys.readouterr().err


def test_cancel_ends_a_run(capsys: pytest.CaptureFixture[str]):
    with StandIn(runs_on) as server:
        assert submit(server) == 0
        ((run_id, execution),) = server.objects.executions.items()
        assert drrho(server, "cancel", run_id) == 0
        assert drrho(server, "status", run_id, "--wait", "--every", "0.1") == 1
        assert execution.state == "FAILED"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] in ("CANCELING", "CANCELED")


def test_a_server_of_many_users_needs_a_namespace(capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds, multi_user=True) as server:
        assert submit(server) == 2
        assert "Several users share this server" in capsys.readouterr().err
        assert submit(server, "--namespace", "team", "--wait") == 0
