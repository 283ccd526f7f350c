"""What is said of a container's memory before it is used up, with the files of both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from drrho_clip.observe.memory import VERSIONS, ControlGroup, MemoryWatch, memory, memory_limit


def write(root: Path, version: ControlGroup, limit: str, used: int, reclaimable: int = 0) -> None:
    (root / version.limit).parent.mkdir(exist_ok=True)
    (root / version.limit).write_text(f"{limit}\n")
    (root / version.used).write_text(f"{used}\n")
    (root / version.statistics).write_text(f"cache 5\n{version.reclaimable} {reclaimable}\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_kernel_can_take_back_is_not_used(version: ControlGroup, tmp_path: Path):
    write(tmp_path, version, "1000", used=900, reclaimable=300)
    assert memory(tmp_path) == (600, 1000)
    assert memory_limit(tmp_path) == 1000


@pytest.mark.parametrize(("version", "limit"), [(VERSIONS[0], "max"), (VERSIONS[1], "9223372036854771712")])
def test_a_machine_without_a_limit_has_none(version: ControlGroup, limit: str, tmp_path: Path):
    write(tmp_path, version, limit, used=900)
    assert memory(tmp_path) is None
    assert memory(tmp_path / "none") is None
    assert memory_limit(tmp_path) > 2**28
    with MemoryWatch(tmp_path):
        assert not MemoryWatch(tmp_path).look()


def test_each_share_of_the_limit_is_said_once_as_memory_rises(tmp_path: Path):
    write(tmp_path, VERSIONS[0], "1000", used=100)
    watch = MemoryWatch(tmp_path)
    with structlog.testing.capture_logs() as lines:
        for used in (550, 560, 920, 700, 930, 990):
            write(tmp_path, VERSIONS[0], "1000", used)
            assert watch.look()
    assert [line["used"] for line in lines] == [550, 920, 990]
    assert [line["log_level"] for line in lines] == ["info", "warning", "warning"]
