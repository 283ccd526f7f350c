"""What studies say: a verdict is what the interval allows, and the numbers are those of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from drrho_clip.evaluation import EvaluateConfig
from drrho_clip.storage import Store
from drrho_clip.studies import StudyConfig
from drrho_clip.studies.claims import claims, measure_name, spread
from drrho_clip.studies.matrix import Arm, study_arms, study_cells
from drrho_clip.studies.page import study_page
from drrho_clip.studies.plan import Plan
from drrho_clip.studies.results import ReferenceOutcome, RunOutcome, StudyResult, compare, laws_of
from drrho_clip.studies.statistics import Difference
from drrho_clip.studies.table import render_study_table
from drrho_clip.training import TrainConfig

MEASURE = "mean_recall_at_5"


def made_up(kind: str, scores: Mapping[str, Sequence[float]], **settings: str) -> StudyResult:
    """A result with these values of the measure, by arm and then by seed."""
    seeds = ",".join(map(str, range(len(next(iter(scores.values()))))))
    study = StudyConfig.parse({"methods": "fastclip,drrho", "seeds": seeds, **settings})
    train = TrainConfig(run="s", method="openclip", dataset="pets", reference="ref", samples=6400, batch_size=64)
    plan = Plan(
        kind=kind, name="s", dataset="pets", dataset_version=3, dataset_id="f" * 64, study=study, train=train,
        evaluate=EvaluateConfig(run="s", dataset="pets"), arms=study_arms(kind, study, train), weak=None, revision="abc",
        version="0.1.0", created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    runs = [outcome(plan, arm, seed, run, value)
            for arm in plan.arms
            for (seed, run), value in zip(runs_of(plan, arm), scores[arm.name], strict=True)]  # fmt: skip
    reference = ReferenceOutcome(name="ref", model="drrho-tiny", values={MEASURE: 0.2, "samples_seen": 3200})
    return StudyResult(plan=plan, arms=tuple(compare(plan, runs, {})), references=(reference,), missing=())


def runs_of(plan: Plan, arm: Arm) -> list[tuple[int, str]]:
    return [(cell.seed, cell.run) for cell in study_cells(plan.name, (arm,), plan.study.seed_numbers)]


def outcome(plan: Plan, arm: Arm, seed: int, run: str, value: float) -> RunOutcome:
    values = {MEASURE: value, "samples_seen": 6400.0, "samples_per_second": 100.0, "seconds": 64.0, "variance_rho": 0.03}
    return RunOutcome(
        run=run, arm=arm.name, seed=seed, method=str(arm.overrides["method"]), reference="ref", architecture="drrho-small",
        data_fraction=float(arm.overrides.get("data_fraction", 1.0)), values=values,
    )  # fmt: skip


VERDICTS = {
    "better": ((0.40, 0.42, 0.41), "better (difference and its 95% interval +10.0 (+7.5 to +12.5))"),
    "worse": ((0.20, 0.22, 0.21), "worse"),
    "not told apart": ((0.20, 0.42, 0.40), "no difference that the seeds can tell"),
}


@pytest.mark.parametrize(("scores", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_a_verdict_is_what_the_interval_allows(scores: tuple[float, ...], verdict: str):
    (claim,) = claims(made_up("comparison", {"fastclip": (0.31, 0.31, 0.31), "drrho": scores}))
    assert claim.startswith("DRRho-CLIP: ")
    assert "FastCLIP: 31.0 ± 0.0" in claim
    assert verdict in claim


def test_one_seed_carries_no_verdict():
    (claim,) = claims(made_up("comparison", {"fastclip": (0.3,), "drrho": (0.35,)}))
    assert claim == "DRRho-CLIP: 35.0, FastCLIP: 30.0: difference +5.0, one seed and therefore no interval."


def test_the_share_of_the_data_that_reaches_the_baseline():
    scores = {"fastclip-0.5": (0.20, 0.22), "fastclip-1": (0.30, 0.32), "drrho-0.5": (0.28, 0.30), "drrho-1": (0.35, 0.37)}
    result = made_up("data_efficiency", scores, fractions="0.5,1")
    reached, at_that = claims(result)
    expected = "DRRho-CLIP reaches what FastCLIP reaches with all of the data (31.0 ± 1.0) with 64% (64% to 64%) of it"
    assert reached.startswith(expected)
    assert at_that.startswith("DRRho-CLIP with 100% of the data: 36.0 ± 1.0, FastCLIP with 100%: 31.0 ± 1.0: surpassed")
    assert "64% (64% to 64%)" in render_study_table(result)


def test_equal_with_half_of_the_data_is_matched():
    scores = {"fastclip-0.5": (0.20, 0.22), "fastclip-1": (0.30, 0.32), "drrho-0.5": (0.29, 0.35), "drrho-1": (0.36, 0.38)}
    reached, at_that = claims(made_up("data_efficiency", scores, fractions="0.5,1"))
    assert "with at most 50%" in reached
    assert at_that.startswith("DRRho-CLIP with 50% of the data: 32.0 ± 3.0, FastCLIP with 100%: 31.0 ± 1.0: matched")


def test_what_is_not_reached_is_said():
    scores = {"fastclip-0.5": (0.20, 0.22), "fastclip-1": (0.30, 0.32), "drrho-0.5": (0.1, 0.1), "drrho-1": (0.2, 0.2)}
    (claim,) = claims(made_up("data_efficiency", scores, fractions="0.5,1"))
    assert claim == "DRRho-CLIP does not reach what FastCLIP reaches with all of the data (31.0 ± 1.0)."


def test_a_weak_reference_is_named_with_what_it_saw():
    scores = {"fastclip": (0.3, 0.3), "drrho": (0.35, 0.36), "openclip": (0.4, 0.4)}
    above, compared, _ = claims(made_up("weak_to_strong", scores, methods="fastclip,drrho,openclip"))
    assert above == (
        "The reference (drrho-tiny, 3,200 samples seen) reaches 20.0; DRRho-CLIP, which it steers, "
        "35.5 ± 0.5, 6,400 samples seen: 15.5 points above it."
    ), "OpenCLIP's model, which is better, has nothing of the reference"
    assert compared.startswith("DRRho-CLIP: 35.5 ± 0.5, FastCLIP: 30.0 ± 0.0")


def test_the_page_of_a_data_efficiency_study_has_error_bars_and_the_level(folder_store: Store):
    scores = {"fastclip-0.5": (0.20, 0.22), "fastclip-1": (0.30, 0.32), "drrho-0.5": (0.28, 0.30), "drrho-1": (0.35, 0.37)}
    page = study_page(made_up("data_efficiency", scores, fractions="0.5,1"), None, folder_store)
    (plot,) = page.plots
    assert [len(line.bars) for line in plot.lines] == [2, 2, 0]
    assert [len(line.marks) for line in plot.lines] == [2, 2, 0]
    assert plot.lines[0].marks[0].count("L") != plot.lines[1].marks[0].count("L")  # told apart by their shape
    assert plot.lines[2].dashed
    assert [row.label for row in page.table.rows][:2] == ["reference", "FastCLIP, 50% of the data"]
    assert {len(row.cells) for row in page.table.rows} == {len(page.table.columns)}
    assert {len(row.cells) for row in page.runs.rows} == {len(page.runs.columns)}
    assert dict(page.facts)["dataset"] == "pets, version 3, id ffffffffffffffff"


def test_measures_have_names_that_people_use():
    names = [measure_name(one) for one in ("mean_recall_at_5", "zero_shot_top_1", "zero_shot_mean_per_class")]
    assert names == ["R@5 both ways %", "zero-shot top-1 %", "zero-shot mean per class %"]
    assert spread(Difference(mean=-0.01, low=-0.02, high=0.0, n=3)) == "−1.0 (−2.0 to +0.0)"


def scaled(drrho: float, **settings: str) -> StudyResult:
    """Errors on laws of exponents -0.1 (FastCLIP) and `drrho`, two seeds close to each other."""
    sizes = {"architectures": "drrho-small", "budgets": "1e4,4e4,1.6e5,6.4e5", **settings}
    exponents = {"fastclip": -0.1, "drrho": drrho}
    scores = {
        f"{method}-drrho-small-{samples}": [1 - 0.9 * (samples / 1e4) ** exponent * factor for factor in (0.99, 1.01)]
        for method, exponent in exponents.items()
        for samples in (10_000, 40_000, 160_000, 640_000)
    }
    made = made_up("scaling", scores, **sizes)
    runs = [run.model_copy(update={"values": {**run.values, "samples_seen": float(run.arm.rpartition("-")[2])}})
            for arm in made.arms for run in arm.runs]  # fmt: skip
    arms = compare(made.plan, runs, {})
    return made.model_copy(update={"arms": tuple(arms), "laws": laws_of(arms, made.plan)})


@pytest.mark.parametrize(("exponent", "how"), [(-0.2, "steeper than"), (-0.03, "flatter than"), (-0.1, "not to be told from")])
def test_a_law_is_compared_with_the_baselines(exponent: float, how: str):
    said = list(claims(scaled(exponent)))
    assert said[0].startswith("FastCLIP: error = ")
    assert "8 runs, 0 left out" in said[0]
    assert said[2].startswith(f"DRRho-CLIP's law is {how} FastCLIP's: the exponents differ by ")
    assert exponent == -0.1 or f" {-0.1 - exponent:+.3f} (" in said[2]


def test_a_prediction_and_a_law_that_there_is_not_are_said():
    assert "At 1e+05 GFLOPs DRRho-CLIP is expected to err in " in " ".join(claims(scaled(-0.2, predict="1e5")))
    said = list(claims(scaled(0.0)))
    assert said[0].startswith("DRRho-CLIP has no law: A scaling law needs runs of 3 different computes on the frontier")


def test_laws_of_too_few_runs_are_compared_without_an_interval():
    result = scaled(-0.2, predict="1e5")
    arms = [arm.model_copy(update={"runs": arm.runs[:1]}) for arm in result.arms if not arm.arm.name.endswith("-640000")]
    said = list(claims(result.model_copy(update={"laws": laws_of(arms, result.plan)})))
    assert "C^-0.100, C in GFLOPs; 3 runs, 0 left out." in said[0]
    assert said[2] == "The exponents of DRRho-CLIP and FastCLIP differ by +0.100; the runs are too few for an interval."
    assert said[3].endswith("%.")


def test_sizes_and_budgets_have_a_baseline_each(folder_store: Store):
    result = scaled(-0.2)
    found = {arm.arm.name: arm.differences[MEASURE].mean for arm in result.arms if arm.method == "drrho"}
    assert found["drrho-drrho-small-10000"] == pytest.approx(0)
    assert found["drrho-drrho-small-640000"] == pytest.approx(0.9 * (64**-0.1 - 64**-0.2))
    page = study_page(result, None, folder_store)
    assert [row.label for row in page.more[0].rows] == ["FastCLIP", "DRRho-CLIP"]
    assert {row.detail for row in page.table.rows if not row.is_reference} == {""}  # the label says the architecture
    assert page.plots[0].title == "1 − R@5 both ways"
