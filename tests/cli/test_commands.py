from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from drrho_clip.cli import make_app, run_app
from drrho_clip.config import load_config
from drrho_pipelines.cli import make_full_app

LIBRARY = ("init", "doctor", "ingest", "reference", "train", "evaluate", "report", "version")
PIPELINE = ("run", "compile", "list", "submit", "runs", "status", "logs", "cancel")
SCHEDULE = ("schedule", "schedules", "unschedule", "pause", "resume")
COMMANDS = [[name] for name in (*LIBRARY, "demo")] + [["pipeline", name] for name in (*PIPELINE, *SCHEDULE)]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    structlog.reset_defaults()  # commands send their logs to the stderr of this one test


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]):
    assert run_app(make_full_app(), [*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert command == ["version"] or f"  drrho {' '.join(command)}" in text


def test_the_library_alone_has_its_commands(capsys: pytest.CaptureFixture[str]):
    assert run_app(make_app(), ["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in LIBRARY if f"\n  {name} " not in text] == []
    assert run_app(make_app(), ["pipeline"]) == 2


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom drrho_clip.cli import run_app\nfrom drrho_pipelines.cli import make_full_app\n"
        "run_app(make_full_app(), ['train', '--help'])\n"
        "print(sorted({'torch', 'open_clip', 'kfp', 'boto3', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_is_fast():
    """Half a second of processor time here; the limit leaves room for a busy machine, since torch alone would take more."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "drrho_pipelines.cli", "--help"], capture_output=True, check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.5


BAD_INPUT = {
    "unknown command": (["trian"], "No such command 'trian'. Did you mean 'train'?"),
    "unknown option": (["train", "--bacth-size", "3"], "No such option: --bacth-size"),
    "wrong type of option": (["train", "--batch-size", "many"], "Invalid value for '--batch-size'"),
    "stray argument": (["train", "now"], "unexpected extra argument"),
    "no config file": (["train", "--config", "none.yaml"], "There is no such config file (none.yaml)"),
    "config no YAML": (["ingest", "--config", "broken.yaml"], "The config file is no YAML"),
    "config no mapping": (["report", "--config", "list.yaml"], "holds no settings, but a list"),
    "unknown key": (["train", "--set", "train.batchsize=3"], "unknown key 'train.batchsize'. Did you mean batch_size?"),
    "unknown own key": (["train", "--set", "batchsize=3"], "unknown key 'train.batchsize'. Did you mean batch_size?"),
    "unknown method": (["train", "--method", "drho"], "unknown method 'drho'. Did you mean drrho?"),
    "unknown source": (["ingest", "--source", "foldr"], "'ingest.source': Input should be 'folder'"),
    "malformed set": (["evaluate", "--set", "split"], "'split' sets nothing (--set)"),
    "unusable store": (["ingest", "--store", "ftp://x/y"], "No store speaks 'ftp://'"),
    "store is a file": (["train", "--store", "list.yaml"], "list.yaml"),
    "no dataset in the store": (["train", "--store", "empty"], "There is no dataset 'openmoji'"),
    "unusable dataset name": (["ingest", "--source", "scenes", "--dataset", "a/b"], "'a/b' cannot be the name of a dataset"),
    "no such folder": (["ingest", "--source", "folder", "--path", "none"], "does not exist"),
    "source without path": (["ingest", "--source", "folder"], "needs `path`"),
    "no reference model": (["reference", "--set", "train.method=openclip", "--set", "model="], "No reference model is set"),
    "no such run": (["report", "--store", "empty", "--runs", "none"], "none"),
    "init without data": (["init", "none"], "There is nothing at this path"),
    "unknown pipeline": (["pipeline", "run", "stering"], "There is no pipeline 'stering'. Did you mean steering?"),
    "unknown pipeline parameter": (["pipeline", "run", "-p", "train_processs=2"], "no parameter 'train_processs'"),
    "pipeline parameter of a wrong type": (["pipeline", "run", "-p", "train_processes=two"], "takes a value of the type integer"),
    "setting that a pipeline hands on": (["pipeline", "run", "--set", "train.dataset_version=3"], "'train.dataset_version' is 3"),
    "unusable image": (["pipeline", "compile", "--image", "my image"], "'my image' is no image"),
    "unwritable folder": (["pipeline", "compile", "--out", "list.yaml/x"], "Cannot write there"),
    "unwritable artifacts": (["pipeline", "run", "--root", "list.yaml/x"], "Cannot write there"),
    "unwritable demo": (["demo", "--folder", "list.yaml/x"], "Cannot write there"),
    "demo settings": (["demo", "--config", "list.yaml"], "holds no settings, but a list"),
}


@pytest.mark.parametrize(("command", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gives_one_clear_line_and_exit_code_2(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "broken.yaml").write_text("train: {seed: 1")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert run_app(make_full_app(), command) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if not line.startswith("{")]  # log lines may come before
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in output.err
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path not in before] == []


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]):
    assert run_app(make_full_app(), ["--debug", "train", "--config", "none.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drrho_clip.config.load_config", interrupt)
    assert run_app(make_full_app(), ["ingest"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_steps_tell_what_they_did_as_json_where_nobody_looks(capsys: pytest.CaptureFixture[str]):
    command = ["ingest", "--source", "scenes", "--samples", "12", "--dataset", "s", "--store", "st", "--set", "workers=1"]
    for _ in range(2):
        assert run_app(make_full_app(), command) == 0
        output = capsys.readouterr()
        (line,) = output.out.splitlines()
        result = json.loads(line)
        assert (result["result"], result["samples"], result["version"]) == ("dataset s", 12, 1)
        assert [json.loads(line)["event"] for line in output.err.splitlines()]
    assert "ingest_found" in output.err


def test_init_writes_a_config_that_loads_and_never_replaces_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "My pets").mkdir()
    (tmp_path / "My pets/cat.jpg").touch()
    assert run_app(make_app(), ["init", "My pets", "--store", "s3://b/p"]) == 0
    config = load_config(tmp_path / "my.yaml")
    assert (config.store, config.dataset, config.run) == ("s3://b/p", "My-pets", "My-pets-drrho")
    assert (config.ingest.source, config.train.architecture) == ("folder", "drrho-small")
    assert run_app(make_app(), ["init", "My pets", "--published"]) == 2
    assert "The file exists (my.yaml)" in capsys.readouterr().err
    assert run_app(make_app(), ["init", "My pets", "--published", "--force"]) == 0
    assert load_config(tmp_path / "my.yaml").train.architecture == "ViT-B-16"


def test_doctor_says_what_is_right_and_exits_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_app(make_app(), ["doctor", "--store", str(tmp_path / "store")]) == 0
    assert "store" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert run_app(make_app(), ["doctor", "--store", str(tmp_path / "file/store")]) == 2
