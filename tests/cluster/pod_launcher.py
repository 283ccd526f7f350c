"""What starts a step's command inside its pod, in place of the launcher of Kubeflow Pipelines, which cannot be had in tests.

As that launcher does, it fetches the input artifacts, runs the command, and stores the output artifacts and the file that the
command wrote about its outputs. SIGTERM is handed on; 0.8 s later whatever is left is killed, as was seen on a real server.
Given as text to python in the step's own image: it uses nothing but Python and boto3.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEYS = Path("/kfp-launcher/keys")
GRACE_SECONDS = 0.8
KILLED = 137


def main(task: dict[str, Any]) -> int:
    """Run `task`: command, inputs and outputs (artifact URI to path), output_file and where to put it; return the exit code."""
    bucket = _client(task["endpoint"])
    for uri, path in task["inputs"].items():
        _fetch(bucket, uri, Path(path))
    for path in (*task["outputs"].values(), task["output_file"]):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(task["command"], start_new_session=True)
    signal.signal(signal.SIGALRM, lambda *_: _kill(process.pid))
    signal.signal(signal.SIGTERM, lambda *_: _terminate(process.pid))
    code = process.wait()
    if code == 0:
        for uri, path in task["outputs"].items():
            _store(bucket, uri, Path(path))
        _store(bucket, task["output_uri"], Path(task["output_file"]))
    return code if code >= 0 else 128 - code


def _terminate(group: int) -> None:
    os.killpg(group, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)


def _kill(group: int) -> None:
    os.killpg(group, signal.SIGKILL)
    os._exit(KILLED)


def _client(endpoint: str) -> Any:
    import boto3

    keys = {name: (KEYS / name).read_text() for name in ("accesskey", "secretkey")}
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["accesskey"],
        aws_secret_access_key=keys["secretkey"],
    )


def _fetch(client: Any, uri: str, path: Path) -> None:
    parts = urlsplit(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    client.download_file(parts.netloc, parts.path.lstrip("/"), str(path))


def _store(client: Any, uri: str, path: Path) -> None:
    parts = urlsplit(uri)
    if path.is_file():
        client.upload_file(str(path), parts.netloc, parts.path.lstrip("/"))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
