"""A scaling study from the values of its runs: its arms, its laws, what it says and what it draws."""

from __future__ import annotations

from typing import Any

import pytest

from drrho_clip.errors import ConfigError
from drrho_clip.models.flops import flops_per_sample
from drrho_clip.report.plots import draw
from drrho_clip.studies.config import StudyConfig
from drrho_clip.studies.laws import LawResult, fit_laws
from drrho_clip.studies.matrix import Arm, study_arms
from drrho_clip.studies.scaling_page import DRAWN, _curves
from drrho_clip.training.config import TrainConfig

SIZES = {"drrho-nano": 0.0, "drrho-tiny": 0.0, "drrho-small": 0.0}
BUDGETS = (10_000, 40_000, 160_000)
TRUTH = {"fastclip": (1.0, -0.1), "drrho": (1.1, -0.15)}


def settings(**given: Any) -> StudyConfig:
    values = {"methods": "fastclip,drrho", "architectures": ",".join(SIZES), "budgets": "1e4,4e4,1.6e5", "seeds": "0,1"}
    return StudyConfig.parse({**values, **given})


def arms(study: StudyConfig) -> tuple[Arm, ...]:
    return study_arms("scaling", study, TrainConfig(reference="ref"))


def error_of(arm: Arm) -> float:
    a, b = TRUTH[str(arm.overrides["method"])]
    gflops = flops_per_sample(str(arm.overrides["architecture"])) / 1e9
    return float(a * (gflops * int(arm.overrides["samples"])) ** b)


def laws(study: StudyConfig, **changed: float) -> dict[str, LawResult]:
    """Runs whose errors lie on the true laws, but for the arms in `changed`; the two seeds lie 1% to both sides."""
    runs = []
    for arm in arms(study):
        error = changed.get(arm.name.replace("-", "_"), error_of(arm))
        values = [
            {"samples_seen": float(arm.overrides["samples"]), study.measure: 1 - error * (1 + side)} for side in (-0.01, 0.01)
        ]
        runs.append((arm, values))
    names = {arm.name: str(arm.overrides["architecture"]) for arm in arms(study)}
    return {law.label: law for law in fit_laws(runs, study, names)}


def test_every_method_is_trained_at_every_size_and_budget():
    found = arms(settings())
    assert len(found) == 2 * 3 * 3
    assert len({arm.name for arm in found}) == len(found)
    assert {(arm.overrides["architecture"], arm.overrides["samples"]) for arm in found} == {
        (a, n) for a in SIZES for n in BUDGETS
    }
    assert {arm.overrides["method"] for arm in found if arm.is_baseline} == {"fastclip"}
    assert sum(arm.is_baseline for arm in found) == 9


def test_without_sizes_it_is_the_trainings_own():
    own = TrainConfig(reference="ref")
    assert {arm.overrides["architecture"] for arm in arms(settings(architectures=""))} == {own.architecture}
    assert {arm.overrides["samples"] for arm in arms(settings(budgets=""))} == {own.samples}


def test_each_method_has_the_law_of_its_runs():
    found = laws(settings(predict="1e5"))
    assert list(found) == ["FastCLIP", "DRRho-CLIP"]
    for law, (a, b) in zip(found.values(), TRUTH.values(), strict=True):
        assert law.b == pytest.approx(b, abs=0.005)
        assert law.a == pytest.approx(a, rel=0.05)
        assert law.a_interval is not None
        assert law.b_interval is not None
        assert law.b_interval.low < law.b < law.b_interval.high
        (prediction,) = law.predictions
        assert prediction.error == pytest.approx(a * 1e5**b, rel=0.02)
        assert prediction.interval.low < prediction.error < prediction.interval.high
    assert found["FastCLIP"].is_baseline
    assert found["FastCLIP"].steeper is None
    steeper = found["DRRho-CLIP"].steeper
    assert steeper is not None
    assert 0 < steeper.low < 0.05 < steeper.high


def test_a_run_that_a_cheaper_one_beats_is_left_out():
    law = laws(settings(), drrho_drrho_small_10000=0.9)["DRRho-CLIP"]
    assert {point.label for point in law.left_out} == {"DRRho-CLIP; drrho-small, 10,000 samples"}
    assert len(law.used) + len(law.left_out) == 18


def test_a_method_without_a_law_says_why_and_the_others_have_theirs():
    found = laws(settings(), drrho_drrho_tiny_40000=0.0)
    assert "no place on a scaling law" in found["DRRho-CLIP"].problem
    assert "drrho-tiny, 40,000 samples" in found["DRRho-CLIP"].problem
    assert found["FastCLIP"].problem == ""


def test_the_laws_are_drawn_as_lines_and_their_runs_as_marks():
    law = laws(settings(), drrho_drrho_small_10000=0.9)["DRRho-CLIP"]
    points, line, left_out = _curves(law, 1)
    assert (points.joined, points.hollow, left_out.joined, left_out.hollow) == (False, False, False, True)
    assert len(points.points) + len(left_out.points) == 9
    assert len(line.points) == DRAWN
    plot = draw([points, line, left_out], title="", x_label="", logarithmic=True)
    assert plot.lines[0].path == ""
    assert len(plot.lines[0].marks) == 8
    ends = [tuple(map(float, end.split(","))) for end in plot.lines[1].path.removeprefix("M").split("L")]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(ends, ends[10:], strict=False)]
    assert max(slopes) - min(slopes) < 0.02 * abs(max(slopes)), "a law is straight on logarithmic axes"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budgets": "many"}, "budgets: 'many' is no list of numbers"),
        ({"budgets": "1000.5"}, "budgets: '1000.5' is no list of numbers"),
        ({"budgets": "0"}, "0 is not above 0"),
        ({"budgets": "5,5"}, "budgets: 5 is given twice"),
        ({"predict": "-1"}, "-1 is not above 0"),
        ({"architectures": "drrho-nano,drrho-nano"}, "architectures: drrho-nano is given twice"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, str], said: str):
    with pytest.raises(ConfigError, match=said):
        settings(**given)


def test_more_runs_than_a_pipeline_starts_are_refused():
    with pytest.raises(ConfigError, match="180 trainings are too many"):
        arms(settings(seeds=",".join(map(str, range(10)))))
