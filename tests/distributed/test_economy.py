"""What the processes of a step send each other: features and a few scalars, and never a gradient of features."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import normalize

from drrho_clip.data.loader import Batch
from drrho_clip.method import METHODS
from drrho_clip.training.variances import Variances

WORLD_SIZE, SAMPLES, DIMENSION, REFERENCE_DIMENSION = 2, 16, 64, 32  # samples of one process


def recorded(sent: list[tuple[str, int, int]], name: str, call):
    def wrapper(*tensors, **options):
        sent.append((name, tensors[-1].numel(), tensors[-1].element_size()))
        return call(*tensors, **options)

    return wrapper


def worker(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD_SIZE)
    sent: list[tuple[str, int, int]] = []
    for name in [
        name for name in dir(dist) if name.startswith(("all_", "reduce", "broadcast", "gather", "scatter", "send", "isend"))
    ]:
        if callable(getattr(dist, name)):
            setattr(dist, name, recorded(sent, name, getattr(dist, name)))
    generator = torch.Generator().manual_seed(rank)
    sides = [
        normalize(torch.randn(SAMPLES, d, generator=generator), dim=1) for d in (DIMENSION,) * 2 + (REFERENCE_DIMENSION,) * 2
    ]
    features = (sides[0].requires_grad_(), sides[1].requires_grad_())
    reference = (sides[2].half(), sides[3].half())
    index, valid = torch.arange(SAMPLES) + rank * SAMPLES, torch.ones(SAMPLES, dtype=torch.bool)
    out = {}
    for method, config in METHODS.items():
        sent.clear()
        objective = config().build(samples=SAMPLES * WORLD_SIZE, epochs=1)
        objective(features, reference, index, valid, 0).loss.backward()
        out[method] = list(sent)
    sent.clear()
    batch = Batch(torch.empty(0), torch.empty(0), index, valid, torch.stack(reference, 1))
    Variances(steps=1).measure(1, features, batch)
    out["variances"] = list(sent)
    if rank == 0:
        torch.save(out, f"{folder}/sent.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, int, int]]]:
    """By method, what one process gave to each collective of a step: (collective, elements, bytes of an element)."""
    folder: Path = tmp_path_factory.mktemp("economy")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD_SIZE)
    return torch.load(folder / "sent.pt", weights_only=True)


@pytest.mark.parametrize("method", METHODS)
def test_features_are_gathered_once_and_no_gradient_is_reduced(sent, method):
    config = METHODS[method]()
    large = [entry for entry in sent[method] if entry[1] > 8 * SAMPLES]
    expected = [("all_gather_into_tensor", SAMPLES * 2 * DIMENSION, 4)]
    if config.steered or config.distillation_weight:
        expected.append(("all_gather_into_tensor", SAMPLES * 2 * REFERENCE_DIMENSION, 2))  # as they are stored: float16
    assert sorted(large) == sorted(expected)
    scalars = [entry for entry in sent[method] if entry not in large]
    assert all(name == "all_gather_into_tensor" or elements <= 4 for name, elements, _ in scalars)
    assert sum(elements * size for _, elements, size in scalars) <= 48 * SAMPLES
    assert len(scalars) <= (6 if config.distillation_weight else 4)


def test_variances_gather_features_once_and_three_numbers_a_side(sent):
    assert sent["variances"] == [
        ("all_gather_into_tensor", SAMPLES * 2 * DIMENSION, 4),
        ("all_gather_into_tensor", SAMPLES * 2 * REFERENCE_DIMENSION, 2),
        ("all_gather_into_tensor", SAMPLES, 1),  # which could be read
        ("all_gather_into_tensor", 6, 8),
        ("all_gather_into_tensor", 6, 8),
    ]
