from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_of_this_test_only() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # commands send their logs to the stderr of this one test


@pytest.fixture
def nobody_elses_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, token or commit of the machine's, and a home folder that must stay as it is."""
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KFP_TOKEN", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def finish() -> Iterator[threading.Event]:
    """Set to let a run of `runs_until(finish)` end."""
    event = threading.Event()
    yield event
    event.set()
