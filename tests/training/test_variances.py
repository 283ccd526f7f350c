"""The variances of a run: exact over the steps of its end, whatever happened in between."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from drrho_clip.data.loader import Batch
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainConfig, find_summary, train
from drrho_clip.training.__main__ import main
from drrho_clip.training.variances import Variances

B = 6
KEYS = [f"pairwise_loss_variance.{side}.{of}" for of in ("target", "rho") for side in ("image", "text")]


def batch_of(step: int) -> tuple[tuple[Tensor, Tensor], Batch]:
    """Features that spread more with every step, and a batch; one sample of the last step could not be read."""
    generator = torch.Generator().manual_seed(step)
    image, text, *reference = (torch.randn(B, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    text = image + text * 0.3 * (step - 8)
    valid = torch.arange(B) != (2 if step == 20 else -1)
    features = normalize(image, dim=1), normalize(text, dim=1)
    stored = torch.stack([normalize(side, dim=1) for side in reference], 1).half()
    return features, Batch(torch.empty(0), torch.empty(0), torch.arange(B), valid, stored)


def pair_losses(step: int, *, side: int, steered: bool) -> Tensor:
    features, batch = batch_of(step)
    assert batch.reference is not None
    reference = batch.reference.double()
    s = features[0] @ features[1].T - (reference[:, 0] @ reference[:, 1].T if steered else 0)
    losses = (s if side == 0 else s.T) - s.diagonal()[:, None]
    return losses[batch.valid][:, batch.valid][~torch.eye(int(batch.valid.sum()), dtype=torch.bool)]


@pytest.mark.parametrize("stopped_after", [None, 17, 19])
def test_the_final_variances_are_those_of_all_pairs_of_the_last_tenth(stopped_after: int | None):
    variances, shown = Variances(20), {}
    for step in range(1, 21):
        shown[step] = variances.measure(step, *batch_of(step))
        if step == stopped_after:
            state = json.loads(json.dumps(variances.state()))
            variances = Variances(20)
            variances.restore(state, torch.device("cpu"))
    final = variances.final()
    assert list(final) == KEYS
    for key, (side, steered) in zip(KEYS, [(0, False), (1, False), (0, True), (1, True)], strict=True):
        of_steps = [pair_losses(step, side=side, steered=steered) for step in (19, 20)]
        assert final[key] == pytest.approx(torch.cat(of_steps).var(correction=0).item(), rel=1e-12)
        assert shown[19][key] == pytest.approx(of_steps[0].var(correction=0).item(), rel=1e-12)
        assert final[key] != pytest.approx((shown[19][key] + shown[20][key]) / 2, rel=1e-3)


def test_without_a_reference_there_is_one_kind():
    features, batch = batch_of(20)
    alone = Batch(batch.images, batch.tokens, batch.index, batch.valid, None)
    variances = Variances(20)
    assert list(variances.measure(20, features, alone)) == list(variances.final()) == KEYS[:2]


def in_process(arguments: list[str]) -> None:
    assert main(arguments) == 0


def run(store: Store, **changed: Any) -> None:
    settings = {
        "run": "run", "dataset": "scenes", "method": "drrho", "reference": "ref", "architecture": "drrho-nano", "batch_size": 32,
        "samples": 32 * 20, "warmup_steps": 2, "temperature": 0.1, "log_steps": 1, "checkpoint_steps": 19, "keep_checkpoints": 9,
    }  # fmt: skip
    train(TrainConfig.parse({**settings, **changed}), store, launch=in_process)


def test_a_resumed_run_ends_with_the_variances_of_an_undisturbed_one(scenes_store: Store):
    run(scenes_store)
    undisturbed = find_summary("run", scenes_store)
    assert undisturbed is not None
    rows = [json.loads(line) for line in scenes_store.read(layout.run_metrics("run")).decode().splitlines()]
    kept = (layout.run_config("run"), layout.checkpoint("run", 19), layout.run_metrics("run"))
    for info in list(scenes_store.list(layout.run("run"))):  # as if it had been killed after step 19
        if not info.key.startswith(kept):
            scenes_store.delete(info.key)
    run(scenes_store)
    resumed = find_summary("run", scenes_store)
    assert resumed is not None
    for key in KEYS:
        assert resumed.final[key] == pytest.approx(undisturbed.final[key], rel=1e-6)
        assert resumed.final[key] > (rows[18][key] + rows[19][key]) / 2  # both steps, and how their means differ
        assert resumed.final[key] != pytest.approx(rows[19][key], rel=1e-6)  # not of the last step alone
