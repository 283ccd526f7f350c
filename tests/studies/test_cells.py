"""The runs of a study when something ends them: what is done stays done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from study_helpers import STUDY, TINY, Launcher

from drrho_clip.errors import ModelError
from drrho_clip.storage import Store, layout
from drrho_clip.studies.cell import curve_steps
from drrho_clip.studies.plan import Plan
from drrho_clip.studies.run import run_study
from drrho_clip.training import find_summary

NAME = "scenes-comparison"
FIRST, SECOND = (f"{NAME}-{method}-s0" for method in ("fastclip", "drrho"))


def objects_of(run: str, store: Store) -> dict[str, str]:
    return {info.key: info.etag for info in store.list(f"{layout.run(run)}/")}


def test_a_study_whose_processes_are_killed_repeats_nothing(
    scenes_store: Store, plan_in: Callable[..., Plan], launcher: Launcher, tmp_path: Path
):
    study = {**STUDY, "seeds": "0", "curve_points": 0}
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump({"store": scenes_store.uri, "dataset": "scenes", "train": TINY, "study": study})
    )
    command = [sys.executable, "-m", "drrho_pipelines.cli", "study", "comparison", "--config", str(tmp_path / "my.yaml")]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while scenes_store.head(layout.run_config(SECOND)) is None:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    done = objects_of(FIRST, scenes_store)
    assert layout.report(FIRST) in done
    assert find_summary(SECOND, scenes_store) is None

    result = run_study(plan_in(scenes_store, **study), scenes_store, launcher)
    assert result.missing == ()
    assert launcher.started == [SECOND]
    assert objects_of(FIRST, scenes_store) == done


def test_a_failed_evaluation_leaves_the_training(
    scenes_store: Store, plan_in: Callable[..., Plan], launcher: Launcher, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise ModelError("The model gives features that are not finite")

    plan = plan_in(scenes_store, methods="fastclip", seeds="0", curve_points=0)
    with monkeypatch.context() as patch:
        patch.setattr("drrho_clip.studies.cell.evaluate", fails)
        with pytest.raises(ModelError):
            run_study(plan, scenes_store, launcher)
    trained = objects_of(FIRST, scenes_store)
    assert layout.run_summary(FIRST) in trained
    assert run_study(plan, scenes_store, launcher).missing == ()
    assert launcher.started == [FIRST]
    assert trained.items() <= objects_of(FIRST, scenes_store).items()


def test_a_curve_has_the_points_that_were_asked_for(scenes_store: Store, plan_in: Callable[..., Plan], launcher: Launcher):
    plan = plan_in(scenes_store, train={"samples": 32 * 7}, methods="fastclip", seeds="0", curve_points=2)
    run_study(plan, scenes_store, launcher)
    assert curve_steps(plan, FIRST, scenes_store) == [2, 4], "of 7 steps the third, which is kept too, is all but the end"
