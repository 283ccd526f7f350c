import pytest
import torch
from torch import nn

from drrho_clip.errors import ConfigError
from drrho_clip.method import METHODS
from drrho_clip.training import TrainConfig
from drrho_clip.training.optimiser import make_optimiser, schedule, set_learning_rate


def test_only_matrices_decay_and_the_temperature_has_its_own_learning_rate():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    config = TrainConfig(method="fastclip", weight_decay=0.3, learning_rate=0.01)
    optimiser = make_optimiser(model, METHODS["fastclip"]().build(samples=4, epochs=1), config)
    groups = {group["name"]: group for group in optimiser.param_groups}
    assert [parameter.shape for parameter in groups["matrices"]["params"]] == [(4, 3)]
    assert len(groups["vectors"]["params"]) == 3
    assert (groups["matrices"]["weight_decay"], groups["vectors"]["weight_decay"]) == (0.3, 0.0)
    assert (groups["matrices"]["lr"], groups["temperature"]["lr"]) == (0.01, 7.8125e-5)


def test_a_constant_temperature_is_not_optimised():
    config = TrainConfig(method="drrho", reference="r")
    optimiser = make_optimiser(nn.Linear(2, 2), METHODS["drrho"]().build(samples=4, epochs=1), config)
    assert [group["name"] for group in optimiser.param_groups] == ["matrices", "vectors"]


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [schedule(step, steps=100, warmup=10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert schedule(0, steps=100, warmup=0) == 1.0


def test_every_group_is_scaled_from_its_own_rate():
    groups = [{"base_lr": 1.0, "lr": 0.3}, {"base_lr": 0.1, "lr": 0.1}]
    set_learning_rate(groups, 0.5)
    assert [group["lr"] for group in groups] == [0.5, 0.05]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "drho", "reference": "r"}, "Did you mean drrho"),
        ({"method": "drrho"}, "needs a reference"),
        ({"metod": "drrho"}, "Did you mean method"),
        ({"batch_size": 1}, "batch_size"),
        ({"method": "openclip", "temperature": 0.0}, "temperature"),
        ({"method": "openclip", "temperature": 7.0}, "temperature"),
        ({"method": "drrho", "reference": "r", "eps": -0.5}, "eps"),
        ({"method": "fastclip", "gamma_min": 1.5}, "gamma_min"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        TrainConfig.parse(settings)


def test_published_values_are_used_where_nothing_is_set():
    config = TrainConfig(method="drrho", reference="r")
    assert (config.objective().temperature, config.objective().learn_temperature) == (0.01, False)
    assert TrainConfig(method="openclip").objective().temperature == 0.07
    assert TrainConfig(method="fastclip", learn_temperature="no").objective().learn_temperature is False
