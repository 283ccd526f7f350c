"""The mean weight of every sample over its visits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drrho_clip.errors import ConfigError
from drrho_clip.method.weights import SampleWeights


@pytest.mark.parametrize("home", ["device", "shared"])
def test_weights_are_means_over_the_visits_that_could_be_read(home, tmp_path: Path):
    weights = SampleWeights(5, home=home, folder=str(tmp_path))
    losses = torch.tensor([[2.0, 4.0], [1.0, 2.0]])
    weights.record(torch.tensor([3, 1]), torch.tensor([[0.5, 1.0], [0.2, 0.0]]), losses, torch.tensor([True, True]))
    weights.record(torch.tensor([3, 4]), torch.tensor([[1.0, 0.0], [9.0, 9.0]]), -losses, torch.tensor([True, False]))
    index, mean, loss = weights.visited(0, 5)
    assert loss.tolist() == [1.5, -3.0]  # of the last visit
    assert index.tolist() == [1, 3]
    torch.testing.assert_close(mean, torch.tensor([[0.2, 0.0], [0.75, 0.5]]))
    index, mean, loss = weights.visited(2, 5)
    assert (index.tolist(), mean.tolist(), loss.tolist()) == ([3], [[0.75, 0.5]], [-3.0])
    assert len(weights.visited(4, 5)[0]) == 0


def test_a_record_without_room_says_what_needs_it(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"The record of the weights of 10 samples takes 0\.0 GB, and .* has no room"):
        SampleWeights(10, home="shared", folder=str(tmp_path / "missing"))
