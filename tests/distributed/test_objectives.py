"""Two and four processes give what one gives on the same global batch: value, gradients, u and variances, to 1e-10."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import normalize

from drrho_clip import distributed
from drrho_clip.method import METHODS, global_contrastive_loss
from drrho_clip.method.contrastive import GlobalBatch
from drrho_clip.method.objective import SelectedContrastive
from drrho_clip.method.variance import pairwise_moments
from drrho_clip.method.weights import SampleWeights

SAMPLES, BATCH, STEPS = 20, 8, 3


def features_of(step: int) -> list[torch.Tensor]:
    """image, text [BATCH, 6] and the reference's [BATCH, 4], float64."""
    generator = torch.Generator().manual_seed(step)
    return [normalize(torch.randn(BATCH, d, generator=generator, dtype=torch.float64), dim=1) for d in (6, 6, 4, 4)]


def run_steps(rank: int, world_size: int, folder: str) -> dict[str, torch.Tensor]:
    """What this rank gets from three steps of every method; the last step revisits samples and has one that could not be read."""
    mine = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    out = {}
    for method, config in METHODS.items():
        objective = config(temperature=0.3, learn_temperature=True).build(samples=SAMPLES, epochs=2).double()
        records = {home: SampleWeights(SAMPLES, home=home, folder=folder) for home in ("device", "shared")}
        for step in range(STEPS):
            image, text, *reference = (side[mine].clone() for side in features_of(step))
            index = ((torch.arange(BATCH) * 2 + step * 3) % SAMPLES)[mine]
            valid = (torch.arange(BATCH) != (1 if step == STEPS - 1 else -1))[mine]
            features = (image.requires_grad_(), text.requires_grad_())
            result = objective(features, tuple(reference), index, valid, step)
            result.loss.backward()
            for weights in records.values():
                weights.record(index, result.weights, result.losses, valid)
            for name, value in (("image", features[0].grad), ("text", features[1].grad)):
                out[f"{method}/{step}/{name}"] = value / world_size  # DDP takes the mean of parameter gradients over ranks
            out[f"{method}/{step}/value"] = result.value[None]
            out[f"{method}/{step}/loss"] = result.loss.detach()[None]
            out[f"{method}/{step}/effective size"] = result.effective_size[None]
            batch = GlobalBatch(features, tuple(reference), valid)
            for steered in (False, True):
                out[f"{method}/{step}/moments, {steered}"] = torch.stack(pairwise_moments(batch, steered=steered))[None]
        out[f"{method}/temperature"] = torch.zeros(1) if objective.log_scale.grad is None else objective.log_scale.grad[None]
        if isinstance(objective, SelectedContrastive):
            generator = torch.Generator().manual_seed(0)
            chosen = objective.select((image, text), tuple(reference), index, valid, size=4, generator=generator)
            out[f"{method}/chosen"] = chosen[None].double()
        rows = objective.by_rows().get("u")
        out[f"{method}/u"] = torch.zeros(1) if rows is None else rows.read_rows(0, SAMPLES).nan_to_num(-9.0)[None]
        distributed.barrier()  # one process writes what is shared
        out |= {f"{method}/weights/{home}": weights.rows.read_rows(0, SAMPLES)[None] for home, weights in records.items()}
    return out | pure_function(mine, world_size)


def pure_function(mine: slice, world_size: int) -> dict[str, torch.Tensor]:
    """The same of the function for trainers of one's own, on two visits, with and without a reference."""
    out = {}
    for steered in (False, True):
        log_u = torch.full((BATCH, 2), torch.nan, dtype=torch.float64)[mine]
        for step in range(2):
            image, text, *reference = (side[mine].clone() for side in features_of(step))
            tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
            features = (image.requires_grad_(), text.requires_grad_())
            steering = tuple(reference) if steered else None
            loss, log_u = global_contrastive_loss(features, steering, log_u, temperature=tau, gamma=0.6, eps=1e-3, rho=2.0)
            loss.backward()
            name = f"function, {steered}/{step}"
            out |= {f"{name}/image": image.grad / world_size, f"{name}/text": text.grad / world_size, f"{name}/u": log_u}
            out |= {f"{name}/loss": loss.detach()[None], f"{name}/temperature": tau.grad[None]}
    return out


def worker(rank: int, world_size: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    gathered = {key: distributed.gather(value) for key, value in run_steps(rank, world_size, folder).items()}
    if rank == 0:
        torch.save(gathered, f"{folder}/result.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes_equal_one(world_size: int, tmp_path: Path):
    mp.spawn(worker, args=(world_size, str(tmp_path)), nprocs=world_size)
    several, one = torch.load(tmp_path / "result.pt", weights_only=True), run_steps(0, 1, str(tmp_path))
    assert several.keys() == one.keys()
    for key, expected in one.items():
        actual = several[key]
        if len(actual) != len(expected):  # the same on every rank
            assert all(torch.equal(actual[0], row) for row in actual), key
            actual = actual[:1]
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")
