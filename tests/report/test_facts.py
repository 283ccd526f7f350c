"""What the page says in words: settings as they took effect, and what sets runs apart."""

from __future__ import annotations

import pytest

from drrho_clip.report.facts import effective_settings, run_facts, run_labels, settings
from drrho_clip.report.results import RunResult
from drrho_clip.training.config import TrainConfig


def config(**values: object) -> dict[str, object]:
    return TrainConfig.parse({"reference": "clean", **values}).model_dump()


def test_settings_left_to_the_method_show_the_method_s_values():
    effective = effective_settings(config(method="drrho"))
    assert (effective["temperature"], effective["eps"], effective["learn_temperature"]) == (0.01, 1e-4, False)


def test_settings_that_the_method_does_not_have_have_no_value():
    effective = effective_settings(config(method="openclip"))
    assert effective["eps"] is None
    assert effective["temperature"] == 0.07


def test_settings_of_another_version_are_shown_as_they_are():
    unknown = {"method": "of-the-future", "eps": -1}
    assert effective_settings(unknown) == unknown


def test_settings_are_split_into_same_and_different():
    runs = [
        RunResult("a", config(run="a", seed=1)),
        RunResult("b", config(run="b", seed=2)),
        RunResult("c", {k: v for k, v in config(run="c", seed=2).items() if k != "lanes"}),
    ]
    same, different = settings(runs)
    assert different == [("seed", ["1", "2", "2"]), ("lanes", ["0", "0", ""])]
    assert ("batch_size", "5,120") in same
    assert "run" not in dict(same)


def test_settings_of_no_run_that_has_any():
    assert settings([RunResult("a")]) == ([], [])


def test_labels_name_the_run_where_the_method_does_not_tell():
    runs = [RunResult("a", {"method": "drrho"}), RunResult("b", {"method": "drrho"}), RunResult("c", {"method": "openclip"})]
    assert list(run_labels(runs).values()) == ["DRRho-CLIP (a)", "DRRho-CLIP (b)", "OpenCLIP"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (154.2, "2 min 34 s"), (3600, "1 h 00 min"), (93_784.0, "26 h 03 min"), (None, "")]
)
def test_time_is_written_short(seconds: float | None, text: str):
    facts = dict(run_facts([RunResult("a", summary={"seconds": seconds, "steps": 10})]))
    assert facts.get("time", [""]) == [text]
    assert facts["state"] == ["finished"]


def test_facts_nobody_has_are_left_out():
    assert [what for what, _ in run_facts([RunResult("a")])] == ["run", "state"]
