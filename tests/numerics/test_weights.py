"""The mean weight of every sample over its visits."""

from __future__ import annotations

import torch

from drrho_clip.method.weights import SampleWeights


def test_weights_are_means_over_the_visits_that_could_be_read():
    weights = SampleWeights(5)
    losses = torch.tensor([[2.0, 4.0], [1.0, 2.0]])
    weights.record(torch.tensor([3, 1]), torch.tensor([[0.5, 1.0], [0.2, 0.0]]), losses, torch.tensor([True, True]))
    weights.record(torch.tensor([3, 4]), torch.tensor([[1.0, 0.0], [9.0, 9.0]]), -losses, torch.tensor([True, False]))
    index, mean, loss = weights.visited()
    assert loss.tolist() == [1.5, -3.0]  # of the last visit
    assert index.tolist() == [1, 3]
    torch.testing.assert_close(mean, torch.tensor([[0.2, 0.0], [0.75, 0.5]]))
