"""u behind get and put: both homes hold the same, and the shared one costs only what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drrho_clip.errors import ConfigError
from drrho_clip.method.rows import UState


@pytest.mark.parametrize("home", ["device", "shared"])
def test_what_was_put_comes_back_and_the_rest_was_never_seen(home, tmp_path: Path):
    state = UState(6, home=home, folder=str(tmp_path))
    values = torch.tensor([[0.0, -0.0], [1e-38, -3e4], [torch.nan, torch.inf]])
    state.put(torch.tensor([4, 0, 2]), values)
    back = state.get(torch.tensor([0, 1, 2, 4]))
    expected = torch.stack([values[1], torch.full((2,), torch.nan), values[2], values[0]])
    assert torch.equal(back.view(torch.int32), expected.view(torch.int32))
    other = UState(6, home="device")
    other.put(torch.tensor([1]), torch.ones(1, 2))
    other.clear()
    assert other.read_rows(0, 6).isnan().all()
    other.write_rows(1, state.read_rows(1, 6))
    torch.testing.assert_close(other.read_rows(1, 6), state.read_rows(1, 6), rtol=0, atol=0, equal_nan=True)


def test_a_shared_file_is_sparse_and_has_no_name(tmp_path: Path):
    before = resident_shared()
    state = UState(50_000_000, home="shared", folder="/dev/shm" if Path("/dev/shm").is_dir() else str(tmp_path))
    index = torch.arange(0, 50_000_000, 5_000_000)
    state.put(index, torch.ones(10, 2))
    assert state.get(index).eq(1).all()
    assert resident_shared() - before < 4_000_000  # of 400 MB
    assert not list(tmp_path.iterdir())


def resident_shared() -> int:
    """Bytes of mapped files and shared memory that this process holds."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(rows["RssShmem"].split()[0]) * 1024


def test_auto_leaves_the_device_above_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("drrho_clip.method.rows.DEVICE_BYTES", 80)
    assert [UState(n, folder=str(tmp_path)).shared for n in (10, 11)] == [False, True]


@pytest.mark.parametrize(("samples", "folder"), [(10, "missing"), (10**15, ".")])
def test_a_folder_without_room_is_refused(samples, folder, tmp_path: Path):
    with pytest.raises(ConfigError, match="no room"):
        UState(samples, home="shared", folder=str(tmp_path / folder))
