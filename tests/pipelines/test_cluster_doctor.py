"""`drrho doctor --cluster` where there is no usable cluster; tests/cluster/test_install.py asks a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from drrho_clip.cli import run_app
from drrho_pipelines.cli import make_full_app
from kubeconfig_helpers import write_kubeconfig

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (None, [], "There is no kubeconfig, and this is no pod"),
        ("a: b: c", [], "The kubeconfig cannot be used"),
        ("", [], "The kubeconfig cannot be used"),
        ("GOOD", ["--context", "there"], "The kubeconfig has no context 'there'"),
        ("GOOD", [], "The API server does not answer"),
    ],
)
def test_without_a_cluster(
    content: str | None, options: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if content is not None:
        path = tmp_path / "config"
        path.write_text(content)
        monkeypatch.setenv("KUBECONFIG", write_kubeconfig(path, NOBODY) if content == "GOOD" else str(path))
    assert run_app(make_full_app(), ["doctor", "--cluster", *options]) == 2
    first, fix = capsys.readouterr().out.splitlines()
    assert first.startswith(f"WRONG  cluster  {expected}")
    assert "-> " in fix
    assert "sesame" not in first + fix


def test_options_of_a_cluster_need_the_cluster(capsys: pytest.CaptureFixture[str]):
    assert run_app(make_full_app(), ["doctor", "--service-account", "me"]) == 2
    assert "--service-account says something of a cluster. Add --cluster." in capsys.readouterr().err


def test_the_pipelines_of_a_namespace_need_its_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path / "config", NOBODY))
    assert run_app(make_full_app(), ["pipeline", "compile", "--out", str(tmp_path / "dist"), "--namespace", "kubeflow"]) == 2
    assert "The API server does not answer" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()
