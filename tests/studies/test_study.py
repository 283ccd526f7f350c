"""Whole studies at the smallest size, through the command: what they leave, and that a retry repeats nothing."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from study_helpers import STUDY, TINY, Launcher

from drrho_clip.cli.app import make_app, run_app
from drrho_clip.evaluation.step import read_evaluation
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.studies.plan import Plan
from drrho_clip.studies.results import StudyResult
from drrho_clip.studies.run import run_study
from drrho_clip.studies.summary import summarise
from drrho_clip.training import find_summary, read_config

NAME = "scenes-comparison"


@pytest.fixture(scope="module")
def compared(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Launcher, str]:
    """A comparison that was killed in its third training and started again, by command; and what the second one printed."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(scenes_folder, folder / "store")
    config = {"store": str(folder / "store"), "dataset": "scenes", "train": TINY, "study": STUDY}
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    command = ["study", "comparison", "--config", str(folder / "my.yaml")]
    launcher, shown = Launcher(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drrho_clip.training.launch.run_locally", launcher)
        launcher.fail_at = 3
        assert run_app(make_app(), command) == 130
        launcher.fail_at = 0
        patch.setattr("sys.stdout", shown)
        assert run_app(make_app(), command) == 0
    return open_store(folder / "store"), launcher, shown.getvalue()


def result_of(store: Store, name: str = NAME) -> StudyResult:
    return StudyResult.model_validate_json(store.read(layout.study_result(name, "json")))


def test_a_killed_study_goes_on_and_repeats_nothing(compared: tuple[Store, Launcher, str]):
    _, launcher, _ = compared
    runs = [f"{NAME}-{method}-s{seed}" for seed in (0, 1) for method in ("fastclip", "drrho")]
    assert launcher.started == [*runs[:3], *runs[2:]]  # the one that was killed, and those that were not begun


def test_a_finished_study_is_found(compared: tuple[Store, Launcher, str], plan_in: Callable[..., Plan]):
    store, _, _ = compared
    before = {info.key: info.etag for info in store.list("runs/")}
    plan = plan_in(store)
    evaluated = plan.model_copy(update={"evaluate": plan.evaluate})

    def never(_arguments: list[str]) -> None:
        raise AssertionError("nothing should have been started")

    run_study(evaluated, store, never)
    assert {info.key: info.etag for info in store.list("runs/")} == before


def test_a_study_that_grows_does_the_new_runs_alone(
    compared: tuple[Store, Launcher, str], plan_in: Callable[..., Plan], launcher: Launcher, tmp_path: Path
):
    shutil.copytree(compared[0].uri, tmp_path / "store")
    store = open_store(tmp_path / "store")
    before = {info.key: info.etag for info in store.list("runs/")}
    result = run_study(plan_in(store, methods="fastclip,drrho,openclip"), store, launcher)
    assert launcher.started == [f"{NAME}-openclip-s0", f"{NAME}-openclip-s1"]
    assert {info.key: info.etag for info in store.list("runs/") if "openclip" not in info.key} == before
    assert [(arm.method, len(arm.runs)) for arm in result.arms] == [("fastclip", 2), ("drrho", 2), ("openclip", 2)]


def test_the_command_shows_each_run_and_where_the_report_is(compared: tuple[Store, Launcher, str]):
    store, _, shown = compared
    records = [json.loads(line) for line in shown.splitlines()]
    assert [record["result"] for record in records] == [
        *(f"[{number}/4] {NAME}-{method}-s{seed}" for number, (seed, method) in enumerate(
            [(0, "fastclip"), (0, "drrho"), (1, "fastclip"), (1, "drrho")], start=1)),
        f"study {NAME}",
    ]  # fmt: skip
    assert records[-1]["html"] == store.uri_of(f"studies/{NAME}/report.html")
    assert "DRRho-CLIP" in records[-1]["claims"][0]


def test_the_result_holds_means_differences_and_a_curve(compared: tuple[Store, Launcher, str]):
    store, _, _ = compared
    result = result_of(store)
    fastclip, drrho = result.arms
    scores = {
        run.run: read_evaluation(store, layout.evaluation(run.run, "scenes", "heldout")).metric("mean_recall_at_5")
        for arm in result.arms
        for run in arm.runs
    }
    pairs = [(scores[f"{NAME}-drrho-s{seed}"], scores[f"{NAME}-fastclip-s{seed}"]) for seed in (0, 1)]
    assert drrho.means["mean_recall_at_5"].mean == pytest.approx(sum(mine for mine, _ in pairs) / 2)
    assert drrho.differences["mean_recall_at_5"].mean == pytest.approx(sum(mine - other for mine, other in pairs) / 2)
    assert fastclip.differences == {}
    assert {"seconds", "samples_per_second", "variance_target", "variance_rho"} <= drrho.means.keys()
    assert drrho.means["samples_seen"].mean == 96
    assert [point.samples_seen for point in drrho.curve] == [32, 96], "one on the way, as was asked"
    assert drrho.curve[-1].measure == drrho.means["mean_recall_at_5"]
    (reference,) = result.references
    assert "mean_recall_at_5" in reference.values
    assert result.missing == ()


def test_the_csv_has_a_line_for_every_run(compared: tuple[Store, Launcher, str]):
    store, _, _ = compared
    rows = list(csv.DictReader(io.StringIO(store.read(layout.study_result(NAME, "csv")).decode())))
    assert [(row["method"], row["seed"]) for row in rows] == [(m, s) for m in ("fastclip", "drrho") for s in "01"]
    assert all(0 <= float(row["mean_recall_at_5"]) <= 1 for row in rows)


def test_the_page_says_it_in_a_sentence_and_links_to_every_run(compared: tuple[Store, Launcher, str]):
    store, _, _ = compared
    page = store.read(layout.study_result(NAME, "html")).decode()
    result = result_of(store)
    for arm in result.arms:
        for run in arm.runs:
            assert f'href="../../runs/{run.run}/report.html"' in page
            assert store.head(layout.report(run.run)) is not None
    said = ("DRRho-CLIP: ", "95% interval", "baseline", "pictures against", "version 1, id", "git revision", "torch")
    for words in (*said, "Settings that differ"):
        assert words in page, words
    assert page.count('<figure class="plot">') == 2  # the measure and the variance against samples seen
    assert 'class="point c1"' in page  # marks: curves are told apart without colour
    assert page.count("<script>") == 1
    assert "script-src &#39;sha256-" in page
    assert not any(word in page for word in ('src="http', 'href="http', "url(", "@import"))


def test_each_plot_of_the_page_is_a_file_too(compared: tuple[Store, Launcher, str]):
    store, _, _ = compared
    names = ["plot-1.svg", "plot-2.svg"]
    assert [info.key.rpartition("/")[2] for info in store.list(f"studies/{NAME}/plot-")] == names
    for name in names:
        drawn = ElementTree.fromstring(store.read(f"studies/{NAME}/{name}"))
        classes = [path.get("class", "") for path in drawn.iter("{http://www.w3.org/2000/svg}path")]
        texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
        for number, method in enumerate(("FastCLIP", "DRRho-CLIP")):
            assert method in texts
            assert classes.count(f"point c{number}") >= 3, "the marks of its points, and that of the legend"


def test_a_study_half_way_says_what_is_missing(compared: tuple[Store, Launcher, str], plan_in: Callable[..., Plan]):
    store, _, _ = compared
    plan = plan_in(store)
    longer = plan.model_copy(update={"study": plan.study.model_copy(update={"seeds": "0,1,2"})})
    result = summarise(longer, store)
    assert set(result.missing) == {f"{NAME}-fastclip-s2", f"{NAME}-drrho-s2"}
    assert f"Not done yet: {NAME}-fastclip-s2" in store.read(layout.study_result(NAME, "html")).decode()
    assert summarise(plan, store).missing == ()


def test_a_study_of_which_nothing_is_done_has_a_page_too(scenes_store: Store, plan_in: Callable[..., Plan]):
    result = summarise(plan_in(scenes_store), scenes_store)
    assert result.arms == ()
    assert "nothing can be said" in scenes_store.read(layout.study_result(NAME, "html")).decode()


def test_shares_of_the_data_at_equal_samples_seen(scenes_store: Store, plan_in: Callable[..., Plan], launcher: Launcher):
    plan = plan_in(scenes_store, "data_efficiency", fractions="0.5,1", seeds="0", curve_points=0)
    result = run_study(plan, scenes_store, launcher)
    assert [arm.data_fraction for arm in result.arms] == [0.5, 1, 0.5, 1]
    assert {arm.means["samples_seen"].mean for arm in result.arms} == {96}
    assert [arm.arm.name for arm in result.arms if arm.reach] == ["fastclip-0.5", "drrho-0.5"]
    page = scenes_store.read(layout.study_result("scenes-data-efficiency", "html")).decode()
    assert "reached with" in page
    assert "% of the data, at equal samples seen" in page


def test_a_weak_reference_is_trained_first_and_stands_beside(
    scenes_store: Store, plan_in: Callable[..., Plan], launcher: Launcher
):
    weak = {"weak_architecture": "drrho-nano", "weak_fraction": 0.5, "seeds": "0", "curve_points": 0}
    plan = plan_in(scenes_store, "weak_to_strong", train={"architecture": "drrho-tiny"}, **weak)
    result = run_study(plan, scenes_store, launcher)
    name = "scenes-weak-to-strong"
    assert launcher.started == [f"{name}-reference", f"{name}-fastclip-s0", f"{name}-drrho-s0"]
    trained = read_config(f"{name}-reference", scenes_store)
    assert (trained.architecture, trained.samples, trained.data_fraction) == ("drrho-nano", 48, 0.5)
    assert (trained.method, trained.temperature) == ("openclip", -1)
    assert read_config(f"{name}-drrho-s0", scenes_store).reference == f"{name}-reference"
    (reference,) = result.references
    assert (reference.model, reference.values["samples_seen"]) == ("drrho-nano", 32)  # whole batches
    page = scenes_store.read(layout.study_result(name, "html")).decode()
    assert "The reference (drrho-nano, 32 samples seen) reaches" in page
    assert find_summary(f"{name}-reference", scenes_store) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comparison", "--methods", "fastclip,dhro"], "unknown method 'dhro'"),
        (["data-efficiency", "--fractions", "2"], "fractions: 2 is no share"),
        (["weak-to-strong"], "Set weak_architecture"),
        (["comparison", "--references", "nothere"], "No reference 'nothere'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, scenes_store: Store, capsys: pytest.CaptureFixture[str]
):
    settings = [f"--set=train.{key}={value}" for key, value in TINY.items()]
    command = ["study", *arguments, "--store", scenes_store.uri, "--dataset", "scenes", *settings]
    assert run_app(make_app(), command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("{", "20"))]
    assert message in line
