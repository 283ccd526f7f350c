"""The examples for CI and the documents around them, run against the stand-in for the server."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from ci_examples import ROOT, github, gitlab, shell
from drrho_clip.cli import run_app
from drrho_clip.storage import layout, open_store
from drrho_pipelines.cli import make_full_app
from drrho_pipelines.seaweed import SeaweedServer
from kfp_stand_in import Execution, StandIn
from kfp_stand_in.local_runner import run_locally


def succeeds(execution: Execution) -> None:
    execution.begin("train")
    execution.write("train", text="trained\n")
    execution.end("train")


def fails(execution: Execution) -> None:
    execution.begin("train")
    execution.write("train", text="ValueError: no\n")
    execution.end("train", state="FAILED")


@pytest.mark.parametrize(("runner", "code"), [(succeeds, 0), (fails, 1)])
@pytest.mark.parametrize("job", [github, gitlab])
def test_a_job_ends_as_the_run_did(job: Any, runner: Any, code: int):
    variables, commands = job()
    with StandIn(runner) as server:
        for _ in range(2):  # the same commit again
            for command in commands:
                done = shell(f"{command} --every 0.1", variables | {"KFP_ENDPOINT": server.url}, ROOT)
                assert done.returncode == code, done.stderr
        first, second = server.objects.runs.values()
        assert first["runtime_config"]["parameters"]["run"] == "ci-01234567"
        assert first["pipeline_version_reference"] == second["pipeline_version_reference"]
        names = [version["name"] for version in server.objects.versions.values()]
    assert [name.startswith("0.1.0-01234567-") for name in names] == [False, True]
    assert "#/runs/details/" in done.stdout


@pytest.mark.parametrize(("change", "code"), [({"CONFIG": "none.yaml"}, 2), ({"TIMEOUT": "soon"}, 2), ({}, 3)])
def test_a_job_that_cannot_run_says_so(change: dict[str, str], code: int):
    with StandIn(succeeds) as server:
        pass
    variables, (command,) = github()
    done = shell(command, variables | {"KFP_ENDPOINT": server.url} | change, ROOT)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1


def test_the_example_trains(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch):
    """The compiled pipeline, as uploaded, is executed step by step (under kfp.local) with what CI gives it."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"{seaweed.store_uri}/{uuid.uuid4().hex}")
    variables, (command,) = gitlab()
    with StandIn(run_locally) as server:
        more = f"--every 0.5 --store {store.uri} -p store_endpoint={seaweed.endpoint}"
        done = shell(f"{command} {more}", variables | {"KFP_ENDPOINT": server.url}, ROOT)
        assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    ended = [event["step"] for event in told if event.get("step") and event["state"] == "SUCCEEDED"]
    assert ended == ["ingest", "reference", "train", "evaluate", "report"]
    assert store.head(layout.report("ci-01234567")) is not None


@pytest.mark.parametrize("page", ["ci", "schedule"])
def test_commands_in_the_documents_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands = re.findall(r"^    drrho (.*)$", (ROOT / f"docs/{page}.md").read_text(), re.MULTILINE)
    assert len(commands) > 4
    (tmp_path / "my.yaml").write_text("store: s3://bucket/prefix\ntrain: {method: fastclip}\n")
    monkeypatch.chdir(tmp_path)
    with StandIn(succeeds) as server:
        monkeypatch.setenv("KFP_ENDPOINT", server.url)
        for command in commands:
            run_id = next(iter(server.objects.runs), "")
            code = run_app(make_full_app(), shlex.split(command.replace("$RUN", run_id)))
            assert code == (2 if " cancel " in command else 0), command  # the run has ended


def test_python_in_the_documents_runs(monkeypatch: pytest.MonkeyPatch):
    (block,) = re.findall(r"(?:^    import os\n)(?:^    .*\n|^\n)+", (ROOT / "docs/ci.md").read_text(), re.MULTILINE)
    with StandIn(succeeds) as server:
        monkeypatch.setenv("KFP_ENDPOINT", server.url)
        exec(compile(textwrap.dedent(block), "docs/ci.md", "exec"), {})
        (run,) = server.objects.runs.values()
    assert run["runtime_config"]["parameters"] == {"store": "s3://bucket/prefix", "train_seed": 1}
