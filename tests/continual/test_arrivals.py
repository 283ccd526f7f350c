from __future__ import annotations

import pytest

from drrho_clip.continual import Decision, Promoted, find_work
from drrho_clip.continual.arrivals import run_name
from drrho_clip.errors import ConfigError
from drrho_clip.storage import Store, layout
from drrho_clip.training import TrainSummary


def decide(store: Store, version: int, promoted: bool) -> None:
    """What a finished execution leaves behind, as `promote` writes it."""
    run = run_name("nightly", version)
    facts = {"name": "nightly", "run": run, "dataset_version": version, "metric": "zero_shot_top_1", "value": 0.5}
    facts |= {"previous": "", "previous_value": None, "margin": 0.0}
    store.write(layout.promotion(run), Decision(**facts, promoted=promoted, why="").model_dump_json().encode())
    if promoted:
        found = Promoted(**facts, dataset="pets", model="", weights_sha256="", report="", promoted="")
        store.write(layout.promoted("nightly"), found.model_dump_json().encode())


def finish(store: Store, version: int) -> None:
    """The summary of a finished run."""
    numbers = dict.fromkeys(("steps", "samples_seen", "samples_skipped", "world_size"), 1)
    numbers |= dict.fromkeys(("seconds", "samples_per_second", "temperature"), 1.0)
    names = dict.fromkeys(("method", "architecture", "dataset", "dataset_id", "reference", "device"), "")
    run = run_name("nightly", version)
    summary = TrainSummary(run=run, dataset_version=version, versions={}, final={}, **numbers, **names)
    store.write(layout.run_summary(run), summary.model_dump_json().encode())


def test_the_first_version_is_trained_on_from_scratch(folder_store: Store):
    work = find_work("nightly", "pets", 1, folder_store)
    assert (work.run, work.initial) == ("nightly-v1", "")
    assert work.why == "version 1 of 'pets' is new: train 'nightly-v1' from scratch"


@pytest.mark.parametrize("promoted", [True, False])
def test_a_version_that_was_judged_is_not_trained_on_again(promoted: bool, folder_store: Store):
    decide(folder_store, 2, promoted)
    work = find_work("nightly", "pets", 2, folder_store)
    verdict = "promoted" if promoted else "not promoted"
    assert (work.run, work.why) == ("", f"nothing is new since version 2: 'nightly-v2' was {verdict}")


def test_one_that_was_trained_on_but_not_judged_is_gone_on_with(folder_store: Store):
    finish(folder_store, 1)
    assert find_work("nightly", "pets", 1, folder_store).run == "nightly-v1"


def test_training_goes_on_from_the_promoted_run_or_else_from_the_last(folder_store: Store):
    finish(folder_store, 1)
    finish(folder_store, 2)
    assert find_work("nightly", "pets", 4, folder_store).initial == "run:nightly-v2"
    decide(folder_store, 1, promoted=True)
    decide(folder_store, 2, promoted=False)
    assert find_work("nightly", "pets", 4, folder_store).initial == "run:nightly-v1"
    assert find_work("other", "pets", 4, folder_store).initial == ""


def test_a_name_belongs_to_one_dataset(folder_store: Store):
    decide(folder_store, 1, promoted=True)
    with pytest.raises(ConfigError, match="'nightly' was promoted with the dataset 'pets', not 'cars'"):
        find_work("nightly", "cars", 1, folder_store)
