import json
import threading

import pytest
import torch
from torch import nn

from drrho_clip.errors import StorageError
from drrho_clip.method import METHODS
from drrho_clip.method.rows import UState
from drrho_clip.storage import layout, open_store
from drrho_clip.storage.local import LocalStore
from drrho_clip.training import TrainConfig
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.training.optimiser import make_optimiser

RUN = "run"


def trained(seed: int, steps: int = 2) -> dict[str, nn.Module | torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    objective = METHODS["fastclip"]().build(samples=5, epochs=1)
    optimiser = make_optimiser(model, objective, TrainConfig(method="fastclip"))
    for step in range(steps):
        (model(torch.randn(2, 3)).square().sum() + objective.temperature).backward()
        optimiser.step()
        objective.u.on_device[step] = step
    return {"model": model, "optimiser": optimiser, "objective": objective}


def state_of(parts) -> list[torch.Tensor]:
    optimiser = parts["optimiser"].state_dict()["state"]
    return [
        *parts["model"].state_dict().values(),
        *parts["objective"].state_dict().values(),
        parts["objective"].u.on_device,
        *(torch.as_tensor(value) for _, values in sorted(optimiser.items()) for _, value in sorted(values.items())),
    ]


def save(checkpoints: Checkpoints, step: int, parts, state, by_rows=None) -> None:
    checkpoints.start(step, parts, state, by_rows)
    checkpoints.finish()


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(open_store(str(tmp_path)), RUN, keep=2)


def test_everything_comes_back_bit_for_bit(checkpoints):
    saved, loaded = trained(0), trained(1, steps=0)
    save(checkpoints, 7, saved, {"seconds": 1.5}, saved["objective"].by_rows())
    assert checkpoints.restore(loaded, loaded["objective"].by_rows()) == (7, {"seconds": 1.5})
    for before, after in zip(state_of(saved), state_of(loaded), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def test_a_restored_optimiser_goes_on_as_the_saved_one(checkpoints):
    saved, loaded = trained(0), trained(1, steps=0)
    save(checkpoints, 1, saved, {})
    checkpoints.restore(loaded)
    for parts in (saved, loaded):
        parts["model"](torch.ones(2, 3)).square().sum().backward()
        parts["optimiser"].step()
    for before, after in zip(state_of(saved), state_of(loaded), strict=True):
        assert after.dtype == before.dtype


def test_nothing_there_means_step_zero(checkpoints):
    assert checkpoints.restore(trained(0)) == (0, {})


def test_only_the_newest_are_kept(checkpoints):
    for step in (1, 2, 3):
        save(checkpoints, step, trained(step), {})
    assert checkpoints.steps() == [3, 2]
    assert {info.key.split("/")[3] for info in checkpoints.store.list("runs/")} == {"step-00000002", "step-00000003"}


def test_every_nth_is_kept_for_good(tmp_path):
    checkpoints = Checkpoints(open_store(str(tmp_path)), RUN, keep=1, keep_every=4)
    for step in range(2, 15, 2):
        save(checkpoints, step, {}, {})
    assert checkpoints.steps() == [14, 12, 8, 4]


class SlowStore(LocalStore):
    """Takes an object when it is told to, or refuses it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.may_write, self.broken = threading.Event(), False

    def write(self, key, data, **condition):
        assert self.may_write.wait(60)
        if self.broken:
            raise StorageError("The disk is full")
        return super().write(key, data, **condition)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """What is saved is how things were when it was started."""
    store = SlowStore(tmp_path)
    checkpoints, parts = Checkpoints(store, RUN, keep=2), trained(0)
    before = [value.clone() for value in state_of(parts)]
    checkpoints.start(7, parts, {}, parts["objective"].by_rows())
    assert (checkpoints.started, checkpoints.uploading, checkpoints.steps()) == (True, True, [])
    parts["model"](torch.ones(2, 3)).square().sum().backward()
    parts["optimiser"].step()
    parts["objective"].u.on_device.fill_(9)
    store.may_write.set()
    assert checkpoints.finish() == 7
    assert (checkpoints.started, checkpoints.uploading, checkpoints.finish()) == (False, False, 0)
    loaded = trained(1, steps=0)
    assert checkpoints.restore(loaded, loaded["objective"].by_rows())[0] == 7
    for saved, after in zip(before, state_of(loaded), strict=True):
        torch.testing.assert_close(after, saved, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_that_the_store_does_not_take_is_an_error_and_none(tmp_path):
    store = SlowStore(tmp_path)
    checkpoints = Checkpoints(store, RUN, keep=2)
    store.broken = True
    store.may_write.set()
    checkpoints.start(7, trained(0), {})
    with pytest.raises(StorageError, match="The disk is full"):
        checkpoints.finish()
    assert checkpoints.steps() == []


def test_a_checkpoint_without_its_marker_is_none(checkpoints):
    first = trained(1)
    save(checkpoints, 1, first, {})
    save(checkpoints, 2, trained(2), {})
    checkpoints.store.delete(layout.checkpoint_marker(RUN, 2))
    loaded = trained(3, steps=0)
    assert checkpoints.restore(loaded)[0] == 1
    torch.testing.assert_close(state_of(loaded)[0], state_of(first)[0])


@pytest.mark.parametrize("damage", ["cut", "gone", "marker"])
def test_a_damaged_newest_checkpoint_is_skipped(checkpoints, damage):
    first = trained(1)
    save(checkpoints, 1, first, {})
    save(checkpoints, 2, trained(2), {})
    key = f"{layout.checkpoint(RUN, 2)}/model.safetensors"
    if damage == "cut":
        checkpoints.store.write(key, checkpoints.store.read(key)[:-9])
    elif damage == "gone":
        checkpoints.store.delete(key)
    else:
        checkpoints.store.write(layout.checkpoint_marker(RUN, 2), b"{")
    loaded = trained(3, steps=0)
    assert checkpoints.restore(loaded)[0] == 1
    torch.testing.assert_close(state_of(loaded)[0], state_of(first)[0])


def test_a_checkpoint_holds_no_pickle(checkpoints):
    parts = trained(0)
    save(checkpoints, 1, parts, {}, parts["objective"].by_rows())
    files = {info.key.rsplit("/", 1)[1]: checkpoints.store.read(info.key) for info in checkpoints.store.list("runs/")}
    assert len(files) == 5
    assert json.loads(files.pop("COMPLETE.json"))["step"] == 1
    for name, data in files.items():  # safetensors: eight bytes of header length, JSON, and numbers to the last byte
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        assert max(tensor["data_offsets"][1] for tensor in header.values()) == len(data) - 8 - length, name


@pytest.mark.parametrize("home", ["device", "shared"])
def test_rows_are_saved_in_slices_that_any_number_of_ranks_can_take(checkpoints, tmp_path, monkeypatch, home):
    monkeypatch.setattr("drrho_clip.training.checkpoint.SLICE_ROWS", 4)
    saved, loaded = UState(10, home="device"), UState(10, home=home, folder=str(tmp_path))
    saved.put(torch.tensor([0, 4, 9]), torch.arange(6.0).view(3, 2))
    save(checkpoints, 3, {}, {}, {"u": saved})
    assert sorted(info.key.rsplit("/", 1)[1] for info in checkpoints.store.list("runs/")) == [
        "COMPLETE.json", "u.000000000000.safetensors", "u.000000000004.safetensors", "u.000000000008.safetensors",
    ]  # fmt: skip
    loaded.put(torch.tensor([1]), torch.ones(1, 2))
    checkpoints.restore({}, {"u": loaded})
    torch.testing.assert_close(loaded.read_rows(0, 10), saved.read_rows(0, 10), rtol=0, atol=0, equal_nan=True)


def test_a_damaged_slice_sends_all_rows_back_to_the_older_checkpoint(checkpoints, monkeypatch):
    monkeypatch.setattr("drrho_clip.training.checkpoint.SLICE_ROWS", 2)
    state = UState(4, home="device")
    for step in (1, 2):
        state.write_rows(0, torch.full((4, 2), float(step)))
        save(checkpoints, step, {}, {}, {"u": state})
    key = f"{layout.checkpoint(RUN, 2)}/u.000000000002.safetensors"
    checkpoints.store.write(key, checkpoints.store.read(key)[:-1])
    assert checkpoints.restore({}, {"u": state})[0] == 1
    assert state.read_rows(0, 4).eq(1).all()
    checkpoints.store.delete(f"{layout.checkpoint(RUN, 1)}/COMPLETE.json")
    assert checkpoints.restore({}, {"u": state})[0] == 0
    assert state.read_rows(0, 4).isnan().all()  # a new run, with nothing of the damaged step
