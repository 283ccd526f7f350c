"""A runner that executes a compiled pipeline on this machine, under kfp.local, as `drrho pipeline run` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import yaml

from drrho_pipelines.output import TASK
from kfp_stand_in.execution import Execution


def run_locally(execution: Execution) -> None:
    """Run an execution to its end; each step's log is what it printed."""
    with tempfile.TemporaryDirectory(prefix="kfp-local-") as folder:
        pipeline, job = Path(folder) / "pipeline.yaml", Path(folder) / "job.json"
        pipeline.write_text(yaml.safe_dump_all([execution.spec, execution.platform]))
        job.write_text(json.dumps({"pipeline": str(pipeline), "parameters": execution.parameters, "root": f"{folder}/root"}))
        process = subprocess.Popen(
            [sys.executable, "-m", "drrho_pipelines.local_worker", str(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": folder},
        )
        threading.Thread(target=_end_when_cancelled, args=(execution, process), daemon=True).start()
        assert process.stdout is not None
        step = ""
        for line in process.stdout:
            if started := TASK.search(line):
                if step:
                    execution.end(step)
                step = started[1]
                execution.begin(step)
            elif step:
                execution.write(step, text=line)
        failed = process.wait() != 0
        if step and not execution.cancelled.is_set():
            execution.end(step, state="FAILED" if failed else "SUCCEEDED")


def _end_when_cancelled(execution: Execution, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if execution.cancelled.wait(0.2):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            return
