"""Training while something breaks: a server that restarts, a disk that fills up, processes that die while they save."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drrho_clip.data import loader
from drrho_clip.data.ahead import ReadAhead
from drrho_clip.data.manifest import load_manifest
from drrho_clip.errors import DataError, StorageError, TrainingError
from drrho_clip.models.export import exported_sha256
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.storage.local import LocalStore
from drrho_clip.training import TrainConfig, find_summary, train
from drrho_clip.training.__main__ import main
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.verification import verify_dataset, verify_run
from drrho_pipelines.seaweed import SeaweedServer
from run_records import untimed_records

EVERY_STEP_READS = """
from drrho_clip.data import ahead, loader
loader.KEPT_BYTES = loader.LEAST_CACHE = loader.CACHE_SHARE = 0
ahead.ReadAhead.__init__.__defaults__ = (0,)
"""
"""So small a dataset would be in memory before its first step."""


def settings(run: str, **changed: object) -> TrainConfig:
    fixed = {"dataset": "scenes", "method": "drrho", "reference": "ref", "architecture": "drrho-nano", "batch_size": 32}
    fixed |= {"samples": 32 * 16, "learning_rate": 1e-3, "warmup_steps": 2, "temperature": 0.1, "augmentation": "shift"}
    return TrainConfig.parse({"run": run, **fixed, "log_steps": 1, "checkpoint_steps": 4, "keep_checkpoints": 2, **changed})


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


def process(code: str, arguments: list[str], processes: int = 1) -> subprocess.Popen[bytes]:
    """The training command after some code that lets something happen in it."""
    script = f"{code}\nfrom drrho_clip.training.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", f"import os, signal, sys\n{script}", *arguments], stderr=subprocess.PIPE)


def result(store: Store, run: str) -> tuple[object, ...]:
    """What must not depend on what went wrong meanwhile; all of it has been read again."""
    for found in (verify_dataset(store, "scenes"), verify_run(store, run)):
        assert found.problems == []
    return exported_sha256(run, store), untimed_records(store, run), store.read(layout.run_weights(run))


@pytest.fixture(scope="module")
def expected(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The result of a run that nobody disturbs."""
    store = open_store(shutil.copytree(scenes_folder, tmp_path_factory.mktemp("undisturbed") / "store"))
    train(settings("run"), store, launch=in_process)
    return result(store, "run")


def test_training_outlasts_a_restart_of_the_server(
    scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: tuple[object, ...]
):
    """Away for three seconds while samples and features are read and checkpoints written at every other step."""
    server = SeaweedServer(tmp_path)
    away: list[int] = []

    def launch(arguments: list[str]) -> None:
        training = process(EVERY_STEP_READS, [*arguments, "--checkpoint-steps", "2", "--workers", "1"])
        assert training.stderr is not None
        errors = []
        for line in training.stderr:
            errors += [line] if b'"level": "error"' in line else []
            step = json.loads(line)["step"] if b'"event": "step"' in line else 0
            if step >= 5 and not away:
                server.__exit__()
                time.sleep(3)
                server.__enter__()
                away.append(step)
        assert training.wait() == 0, errors

    with server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = open_store(server.store_uri)
        for info in LocalStore(scenes_folder).list():
            store.write(info.key, LocalStore(scenes_folder).read(info.key))
        train(settings("run"), store, launch=launch)
        assert away
        assert away[0] < 12
        assert result(store, "run") == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_training_with_one_error_and_loses_nothing(
    scenes_folder: Path, small_disk: Path, expected: tuple[object, ...]
):
    store = open_store(shutil.copytree(scenes_folder, small_disk / "store"))
    filler = small_disk / "filler"

    def fill(arguments: list[str]) -> None:
        """Once there is a checkpoint there is no space for the next."""
        training = process("", arguments)
        assert training.stderr is not None
        errors = []
        for line in training.stderr:
            if b'"event": "step"' in line and not filler.exists() and Checkpoints(store, "run", 2).steps():
                space = os.statvfs(small_disk)
                with contextlib.suppress(OSError):  # the training writes too, and may have been quicker: it is full then
                    filler.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - 100_000)))
            errors += [json.loads(line)] if b'"level": "error"' in line else []
        assert training.wait() == 2
        assert [error["event"] for error in errors] == ["failed"]
        assert "The disk refused: No space left on device" in errors[0]["reason"]
        raise StorageError("as the launcher says it")

    with pytest.raises(StorageError, match="as the launcher says it"):
        train(settings("run"), store, launch=fill)
    assert not list(small_disk.rglob("*.drrho-tmp"))
    assert Checkpoints(store, "run", 2).steps()
    assert verify_run(store, "run").problems == []
    filler.unlink()
    train(settings("run"), store, launch=in_process)
    assert result(store, "run") == expected


KILLED_IN_AN_UPLOAD = """
from drrho_clip.storage.local import LocalStore
real = LocalStore.write
def write(self, key, data, **conditions):
    if "step-00000008/optimiser" in key:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).with_name(".optimiser.drrho-tmp").write_bytes(bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, key, data, **conditions)
LocalStore.write = write
"""
KILLED_BEFORE_THE_MARKER = """
from drrho_clip.storage.local import LocalStore
real = LocalStore.write
def write(self, key, data, **conditions):
    if key.endswith("step-00000008/COMPLETE.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, key, data, **conditions)
LocalStore.write = write
"""


@pytest.mark.parametrize("code", [KILLED_IN_AN_UPLOAD, KILLED_BEFORE_THE_MARKER], ids=["in an upload", "before the marker"])
def test_a_process_killed_while_it_saves_leaves_no_checkpoint(scenes_store: Store, code: str, expected: tuple[object, ...]):
    def launch(arguments: list[str]) -> None:
        training = process(code, arguments)
        training.communicate()
        assert training.returncode == -9

    with pytest.raises(TrainingError, match="without a summary"):
        train(settings("run"), scenes_store, launch=launch)
    begun = [info.key for info in scenes_store.list(layout.checkpoint("run", 8))]
    assert begun
    assert Checkpoints(scenes_store, "run", 2).steps() == [4]
    assert verify_run(scenes_store, "run").problems == []
    # Other steps are saved now, so that nobody writes over what was begun.
    train(settings("run", checkpoint_steps=5), scenes_store, launch=in_process)
    assert result(scenes_store, "run") == expected
    assert not list(scenes_store.list(layout.checkpoint("run", 8)))


def test_a_rank_killed_while_it_uploads_its_share(scenes_store: Store, expected: tuple[object, ...]):
    """Rank 1 of two has every second file; the other one does not publish a checkpoint without them."""
    script = f'import os, signal, sys\nif os.environ["RANK"] == "1":\n    exec({KILLED_IN_AN_UPLOAD!r})\n'
    program = scenes_store.uri + ".py"
    Path(program).write_text(script + "from drrho_clip.training.__main__ import main\nsys.exit(main())")

    def launch(arguments: list[str]) -> None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--", program]
        assert subprocess.run([*torchrun, *arguments], capture_output=True, check=False).returncode == 1

    with pytest.raises(TrainingError, match="without a summary"):
        train(settings("run"), scenes_store, launch=launch)
    assert Checkpoints(scenes_store, "run", 2).steps() == [4]
    assert verify_run(scenes_store, "run").problems == []
    train(settings("run"), scenes_store, launch=in_process)
    assert find_summary("run", scenes_store) is not None
    assert verify_run(scenes_store, "run").problems == []


def test_a_shard_that_is_replaced_during_training_ends_it(
    scenes_store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """No sample of the other bytes gets in: the run ends at the step that needs one."""
    for name in ("KEPT_BYTES", "LEAST_CACHE", "CACHE_SHARE"):
        monkeypatch.setattr(loader, name, 0)
    monkeypatch.setattr(ReadAhead.__init__, "__defaults__", (0,))
    shard = load_manifest(scenes_store, "scenes").shards[0]
    real = loader.BatchMaker.read

    def read(self: loader.BatchMaker, index, step: int, fetched=None) -> loader.Batch:
        if step == 7:
            data = bytearray(scenes_store.read(shard.key))
            data[len(data) // 2] ^= 1
            scenes_store.write(shard.key, data)
        return real(self, index, step, fetched)

    monkeypatch.setattr(loader.BatchMaker, "read", read)

    def launch(arguments: list[str]) -> None:
        assert main(arguments) == 2
        raise DataError("as the launcher says it")

    with pytest.raises(DataError):
        train(settings("run", samples=32 * 60), scenes_store, launch=launch)
    assert f"Shard {shard.key} of dataset 'scenes' version 1 cannot be used: it was altered" in capfd.readouterr().err
    assert Checkpoints(scenes_store, "run", 2).steps()
