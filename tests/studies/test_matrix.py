"""Which trainings a study consists of, and which it refuses."""

from __future__ import annotations

import pytest

from drrho_clip.errors import ConfigError
from drrho_clip.method import METHODS
from drrho_clip.studies import StudyConfig
from drrho_clip.studies.matrix import Arm, study_arms, study_cells
from drrho_clip.training import TrainConfig

TRAIN = TrainConfig(run="study", dataset="scenes", reference="ref")


def arms(kind: str = "comparison", train: TrainConfig = TRAIN, **settings: str) -> tuple[Arm, ...]:
    return study_arms(kind, StudyConfig.parse(settings), train)


def test_every_method_with_every_seed_and_seed_by_seed():
    found = arms(methods=",".join(METHODS), seeds="0, 7")
    assert [arm.overrides["method"] for arm in found] == list(METHODS)
    assert [arm.name for arm in found if arm.is_baseline] == ["fastclip"]
    assert {arm.overrides["reference"] for arm in found} == {"ref"}
    cells = study_cells("s", found, [0, 7])
    assert len({cell.run for cell in cells}) == 2 * len(METHODS)
    assert [cell.seed for cell in cells] == [0] * len(METHODS) + [7] * len(METHODS)
    assert cells[2].run == "s-drrho-s0"


def test_references_multiply_those_that_are_steered_alone():
    found = arms(methods="fastclip,drrho", references="a,b")
    assert [(arm.name, arm.overrides["reference"]) for arm in found] == [("fastclip", "a"), ("drrho-a", "a"), ("drrho-b", "b")]
    assert found[2].label == "DRRho-CLIP, reference b"
    assert [arm.name for arm in arms(methods="fastclip,drrho", references="a")] == ["fastclip", "drrho"]


def test_a_distillation_weight_makes_any_method_depend_on_its_reference():
    found = arms(methods="fastclip,openclip", references="a,b", settings="openclip.distillation_weight=0.5")
    assert [arm.overrides["reference"] for arm in found if arm.overrides["method"] == "openclip"] == ["a", "b"]


def test_methods_have_settings_of_their_own():
    (fastclip, drrho) = arms(methods="fastclip,drrho", settings="drrho.temperature=0.1, drrho.eps=0.01")
    assert "temperature" not in fastclip.overrides
    assert (drrho.overrides["temperature"], drrho.overrides["eps"]) == ("0.1", "0.01")


def test_shares_of_the_data():
    found = arms("data_efficiency", methods="fastclip,drrho", fractions="1,0.5")
    assert [(arm.name, arm.overrides["data_fraction"], arm.is_baseline) for arm in found] == [
        ("fastclip-0.5", 0.5, False),
        ("fastclip-1", 1.0, True),
        ("drrho-0.5", 0.5, False),
        ("drrho-1", 1.0, False),
    ]
    assert found[0].label == "FastCLIP, 50% of the data"


REFUSED = {
    "unknown method": ({"methods": "fastclip,dhro"}, "unknown method 'dhro'. Did you mean drrho"),
    "no method": ({"methods": " , "}, "methods: give at least one"),
    "a method twice": ({"methods": "fastclip,drrho,drrho"}, "methods: drrho is given twice"),
    "no seed": ({"seeds": ""}, "seeds: give at least one"),
    "a seed twice": ({"seeds": "1,2,1"}, "seeds: 1 is given twice"),
    "no number": ({"seeds": "0,one"}, "seeds: '0,one' is no list of numbers"),
    "a seed below zero": ({"seeds": "-1"}, "seeds: -1 is below 0"),
    "a reference twice": ({"references": "a,a"}, "references: a is given twice"),
    "nothing of the data": ({"fractions": "0,1"}, "fractions: 0 is no share"),
    "more than the data": ({"fractions": "1,1.5"}, "fractions: 1.5 is no share"),
    "baseline": ({"methods": "openclip,drrho"}, "baseline: 'fastclip' is not among the methods. Known: drrho, openclip"),
    "measure": ({"measure": "loss"}, "'measure': a metric is mean_recall_at_5"),
    "a k that is not measured": ({"measure": "mean_recall_at_7"}, "recall at 1, 5, 10, top 1 and 5 (got 'mean_recall_at_7')"),
    "no setting": ({"settings": "temperature=1"}, "write METHOD.SETTING=VALUE"),
    "a setting of no method": ({"settings": "jest.eps=1"}, "settings: 'jest' is not among the methods"),
    "a setting of the study's": ({"settings": "drrho.samples=1"}, "'samples' is nothing that a method sets for itself"),
    "too many": ({"seeds": ",".join(map(str, range(40)))}, "120 trainings are too many for one study: 3 to compare, 40 seeds"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused(settings: dict[str, str], message: str):
    with pytest.raises(ConfigError) as refused:
        arms(**settings)
    assert message in str(refused.value)


def test_refusals_of_a_kind():
    with pytest.raises(ConfigError, match=r"There is no study 'compare'\. Did you mean comparison"):
        arms("compare")
    with pytest.raises(ConfigError, match=r"lack 1.*Write 0.25,0.5,1"):
        arms("data_efficiency", fractions="0.25,0.5")
    with pytest.raises(ConfigError, match="needs runs of 3 different computes, and the study has 2"):
        arms("scaling", budgets="1e4,2e4")
    with pytest.raises(ConfigError, match="needs runs of 4 different computes, and the study has 3"):
        arms("scaling", budgets="1e4,2e4,4e4", irreducible="true")
    with pytest.raises(ConfigError, match="one reference"):
        arms("weak_to_strong", references="a,b")
