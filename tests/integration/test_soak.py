"""A short soak: what is killed at random ends where undisturbed work ends. docs/reliability.md has the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)
def test_what_is_killed_again_and_again_ends_as_if_nothing_had_happened():
    """In a process of its own: where multiprocessing has a fork server already, that one has other modules and environment."""
    command = [sys.executable, Path(__file__).with_name("soak.py"), "--kills", "4", "--kills-a-step", "2", "--seed", "1"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["kills"] >= 4
    assert all(summary[step] for step in ("ingest", "reference", "train"))
