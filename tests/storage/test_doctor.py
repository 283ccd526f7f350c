"""What the doctor finds, on this machine and on broken ones."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from drrho_clip import doctor
from drrho_clip.doctor import Finding, examine, render
from drrho_clip.storage import Store

Usage = namedtuple("Usage", "total used free")
EXPECTED = {"python", "packages", "torch", "accelerator", "open_clip", "store", "temporary disk", "shared memory", "weed"}


def found(name: str, store_uri: str | None = None) -> Finding:
    return {finding.name: finding for finding in examine(store_uri)}[name]


def test_this_machine_is_right(store: Store):
    findings = examine(store.uri)
    assert {finding.name for finding in findings} - {"store disk"} == EXPECTED
    assert [finding for finding in findings if finding.ok is False] == []
    text = render(findings)
    assert store.uri in text
    assert str(sys.version_info.minor) in text
    assert importlib.metadata.version("torch") in text
    assert list(store.list()) == []


def test_without_a_store():
    finding = found("store")
    assert finding.ok is None
    assert "s3://" in finding.fix


@pytest.mark.parametrize("uri", ["gs://bucket", "s3://", "/proc/cannot/be/made", "s3://user:sesame@bucket/x"])
def test_a_store_that_cannot_be_used(uri: str):
    finding = found("store", uri)
    assert finding.ok is False
    assert "sesame" not in render([finding])


def test_a_store_without_a_server(s3_store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    finding = found("store", s3_store.uri)
    assert finding.ok is False
    assert "http://127.0.0.1:1" in finding.detail
    assert "AWS_ENDPOINT_URL" in finding.fix


@pytest.mark.parametrize(("name", "module"), [("torch", "torch"), ("accelerator", "torch"), ("open_clip", "open_clip")])
def test_a_broken_installation_is_a_finding(monkeypatch: pytest.MonkeyPatch, name: str, module: str):
    monkeypatch.setitem(sys.modules, module, None)  # importing it now fails
    finding = found(name)
    assert finding.ok is False
    assert finding.fix


def test_a_package_out_of_range(monkeypatch: pytest.MonkeyPatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "boto3" else version(name))
    finding = found("packages")
    assert finding.ok is False
    assert "boto3 is 1.0, needed >=1.36" in finding.detail


@pytest.mark.parametrize(("free", "ok"), [(0.1, False), (2, None), (50, True)])
def test_free_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, ok: bool | None):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, int(free * doctor.GIB)))
    for name in ("temporary disk", "store disk"):
        finding = found(name, str(tmp_path / "not/made/yet"))
        assert finding.ok is ok
        assert bool(finding.fix) is (ok is not True)


def test_the_shared_memory_of_a_container(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 10 * doctor.GIB))
    finding = found("shared memory")
    assert finding.ok is None
    assert "64 MiB" in finding.detail
    assert "--shm-size" in finding.fix


def test_the_demo_server_is_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("weed").ok is None


def test_the_table_has_a_line_for_each_and_what_to_do():
    text = render(
        [Finding("a", True, "fine"), Finding("longer name", False, "bad\nworse", "Do this."), Finding("b", None, "", "")]
    )
    assert text.splitlines() == [
        "ok     a            fine",
        "WRONG  longer name  bad",
        "                    worse",
        "                    -> Do this.",
        "note   b",
    ]
