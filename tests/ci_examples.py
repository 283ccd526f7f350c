"""The examples for CI as what they are: variables and commands of a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def github() -> tuple[dict[str, str], list[str]]:
    """Variables and commands of the workflow."""
    (job,) = yaml.safe_load((ROOT / "examples/ci/github.yaml").read_text())["jobs"].values()
    return job["env"] | {"GITHUB_SHA": COMMIT}, [step["run"] for step in job["steps"] if "run" in step]


def gitlab() -> tuple[dict[str, str], list[str]]:
    """Variables and commands of the job."""
    job = yaml.safe_load((ROOT / "examples/ci/gitlab.yaml").read_text())["steering"]
    return job["variables"] | {"CI_COMMIT_SHA": COMMIT}, job["script"]


def shell(command: str, variables: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as CI does, with `drrho` of this environment on the PATH and nothing of ours in the variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KFP_", "GITHUB_", "CI"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", command], cwd=folder, env={**kept, **variables, "PATH": path}, capture_output=True, text=True
    )
