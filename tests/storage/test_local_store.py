"""A folder as a store: full and broken disks, processes that die, files that change."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drrho_clip.errors import ObjectChanged, ObjectMissing, StorageError
from drrho_clip.storage import Store, open_store
from drrho_clip.storage.local import LocalStore

MIB = 1 << 20


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow past 1 MiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_refusal(store: Store, folder: Path, source: Path, words: str) -> None:
    store.write("a", b"old")
    for use in (
        lambda: store.write("a", bytes(2 * MIB)),
        lambda: store.write("b/c", bytes(2 * MIB), if_absent=True),
        lambda: store.upload("a", source),
        lambda: open_store(source.parent).download(source.name, folder / "target"),
    ):
        with pytest.raises(StorageError, match=words) as raised:
            use()
        assert str(folder) in raised.value.where
        assert raised.value.fix
    assert store.read("a") == b"old"
    assert files_in(folder) == ["a"]


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path, tmp_path: Path):
    (tmp_path / "source").write_bytes(bytes(2 * MIB))
    check_refusal(open_store(small_disk), small_disk, tmp_path / "source", "No space left")


def test_a_limit_of_file_size_leaves_nothing_half_written(tmp_path: Path, request: pytest.FixtureRequest):
    (tmp_path / "source").write_bytes(bytes(2 * MIB))
    request.getfixturevalue("small_files")
    check_refusal(open_store(tmp_path / "store"), tmp_path / "store", tmp_path / "source", "File too large")


def test_a_writer_that_is_killed_leaves_no_object(folder_store: LocalStore):
    folder_store.write("a/x", b"old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom drrho_clip.storage.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as stream:\n"
        "    stream.write(bytes(100_000)); stream.flush(); os.kill(os.getpid(), 9)\n"
    )
    for name in ("x", "y"):
        result = subprocess.run([sys.executable, "-c", code, str(folder_store.root / "a" / name)], check=False)
        assert result.returncode == -signal.SIGKILL
    assert len(files_in(folder_store.root)) == 3  # what it had begun is there
    assert [info.key for info in folder_store.list()] == ["a/x"]  # and is no object
    assert folder_store.read("a/x") == b"old"
    folder_store.write("a/y", b"new", if_absent=True)


def test_a_lock_of_a_killed_writer_holds_nobody_up(folder_store: LocalStore):
    etag = folder_store.write("a", b"1").etag
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom drrho_clip.storage.local import _locked\n"
        "with _locked(Path(sys.argv[1])):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder_store.root / "a")], check=False)
    folder_store.write("a", b"2", if_match=etag)
    assert [info.key for info in folder_store.list()] == ["a"]


@pytest.mark.parametrize("age", [0, 3600], ids=["young", "settled"])
def test_the_etag_follows_the_bytes(folder_store: LocalStore, age: int):
    """Also of files of equal size that are replaced faster than the clock of the file system ticks."""
    for number in range(200):
        data = f"{number:06d}".encode()
        folder_store.write("a", data)
        path = folder_store.root / "a"
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - age * 10**9 - number))
        info = folder_store.head("a")
        assert info is not None
        assert info.etag == hashlib.md5(data).hexdigest()
        assert folder_store.read("a", etag=info.etag) == data


def test_an_etag_is_never_that_of_a_later_file(folder_store: LocalStore):
    info = folder_store.write("a", b"old!")
    folder_store.write("a", b"newer")
    with pytest.raises(ObjectChanged):
        _ = info.etag


def test_an_etag_of_a_settled_file_is_found_once(folder_store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    folder_store.write("a", bytes(MIB))
    os.utime(folder_store.root / "a", (0, 0))
    info = folder_store.head("a")
    assert info is not None
    expected = info.etag
    hashes: list[object] = []
    monkeypatch.setattr("drrho_clip.storage.local._md5_of", lambda stream: hashes.append(stream) or "hashed again")
    again = folder_store.head("a")
    assert again is not None
    assert again.etag == expected
    assert hashes == []


def test_an_open_file_stays_the_version_that_was_opened(folder_store: LocalStore):
    etag = folder_store.write("a", bytes(3 * MIB)).etag
    with folder_store.open("a", etag=etag) as stream:
        first = stream.read(MIB)
        folder_store.write("a", b"\1" * 3 * MIB)
        assert first + stream.read() == bytes(3 * MIB)


def test_files_and_folders_in_each_others_place(folder_store: LocalStore):
    folder_store.write("file", b"1")
    folder_store.write("folder/a", b"1")
    for key in ("folder", "file/a"):
        assert folder_store.head(key) is None
        folder_store.delete(key)
        with pytest.raises(ObjectMissing):
            folder_store.read(key)
        with pytest.raises(StorageError, match="The disk refused"):
            folder_store.write(key, b"2")
    assert files_in(folder_store.root) == ["file", "folder/a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_folder_without_permission(folder_store: LocalStore):
    """A folder that cannot be read must not shorten a listing silently."""
    folder_store.write("a", b"1")
    folder_store.write("closed/b", b"1")
    for parent in [folder_store.root, *folder_store.root.parents][:4]:
        parent.chmod(0o755)
    (folder_store.root / "closed").chmod(0o700)
    os.seteuid(65534)
    try:
        for use in (
            lambda: list(folder_store.list()),
            lambda: folder_store.head("closed/b"),
            lambda: folder_store.read("closed/b"),
            lambda: folder_store.write("closed/c", b"1"),
            lambda: folder_store.probe(),
        ):
            with pytest.raises(StorageError, match="Permission denied") as raised:
                use()
            assert "right to read and write" in raised.value.fix
            assert not isinstance(raised.value, ObjectMissing)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("uri", ["{}", "file://{}", "file://{}/"])
def test_spellings_of_a_folder(tmp_path: Path, uri: str):
    store = open_store(uri.format(tmp_path / "my%20data"))
    store.write("a", b"1")
    folder = tmp_path / ("my data" if "file:" in uri else "my%20data")
    assert files_in(folder) == ["a"]
    assert store.uri == str(folder)


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("data")
    monkeypatch.chdir("/")
    store.write("a", b"1")
    assert files_in(tmp_path / "data") == ["a"]


def test_names_of_all_kinds(folder_store: LocalStore):
    keys = ["ä" * 100, "x" * 220, "with space", ".hidden", "emoji 🐈/🐈"]
    for key in keys:
        etag = folder_store.write(key, b"1", if_absent=True).etag
        folder_store.write(key, b"2", if_match=etag)
    (folder_store.root / os.fsdecode(b"latin-1-\xe4")).write_bytes(b"1")
    assert {info.key for info in folder_store.list()} == {*keys, os.fsdecode(b"latin-1-\xe4")}
    with pytest.raises(StorageError, match="too long"):
        folder_store.write("y" * 300, b"1")
