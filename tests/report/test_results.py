"""What is read from the store: tolerant of what is missing, strict about what is damaged."""

from __future__ import annotations

import json
from functools import partial

import pytest

from drrho_clip.errors import ConfigError, DataError
from drrho_clip.report import load_results
from drrho_clip.report.results import Metrics, parse_metrics
from drrho_clip.storage import Store, layout


def test_records_are_in_order_once_per_step_and_finite():
    lines = [
        '{"step": 1, "loss": 3.0}',
        '{"step": 2, "loss": 2.0, "gamma": 0.9}',
        '{"step": 3, "loss": 9.0}',
        '{"step": 2, "loss": 2.5, "run": "x"}',
        '{"step": 3, "loss": NaN, "temperature": null, "flag": true}',
        "",
    ]
    metrics = parse_metrics(lines)
    assert metrics.records == ({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}, {"step": 3})
    assert metrics.unreadable == 0
    assert metrics.series("loss") == [(1, 3.0), (2, 2.5)]


@pytest.mark.parametrize("line", ['{"step": 4, "lo', "[1]", '{"loss": 1.0}', '{"step": "4"}', "\ufffd\x00"])
def test_lines_that_are_no_record_are_counted(line: str):
    metrics = parse_metrics(['{"step": 1, "loss": 3.0}', line])
    assert (len(metrics.records), metrics.unreadable) == (1, 1)


@pytest.mark.parametrize(("count", "expected"), [(1, 1.0), (9, 9.0), (20, 19.5), (100, 95.5)])
def test_late_mean_is_over_the_last_tenth(count: int, expected: float):
    metrics = Metrics(tuple({"step": i, "a": float(i), "b": float(i)} for i in range(1, count + 1)))
    assert metrics.late_mean("a", "b") == pytest.approx(expected)
    assert metrics.late_mean("c") is None


def test_sides_count_the_same_when_one_was_recorded_more_often():
    metrics = Metrics(({"step": 1, "a": 1.0}, {"step": 2, "a": 1.0}, {"step": 3, "a": 1.0, "b": 3.0}))
    assert metrics.late_mean("a", "b", share=1.0) == pytest.approx(2.0)


def test_runs_come_in_the_order_asked_for_with_their_reference(compared: Store):
    results = load_results(compared, ["drrho-small", "openclip-small"])
    assert [run.name for run in results.runs] == ["drrho-small", "openclip-small"]
    assert results.dataset == "shapes"
    assert [reference.name for reference in results.references] == ["clean"]
    assert all(run.evaluation and run.finished and run.metrics.records for run in results.runs)
    assert layout.run_summary("drrho-small") in results.sources


def test_unknown_run_names_the_ones_there_are(compared: Store):
    with pytest.raises(DataError, match=r"no run 'drrho-smal'.*Did you mean drrho-small"):
        load_results(compared, ["drrho-smal"])
    with pytest.raises(DataError, match="Known: drrho-small, fastclip-small, openclip-small"):
        load_results(compared, ["zzz"])


def test_no_run_at_all(store: Store):
    with pytest.raises(DataError, match="There is no run yet"):
        load_results(store, ["drrho"])


def test_a_name_that_leaves_its_folder_is_refused(folder_store: Store):
    with pytest.raises(ConfigError, match="cannot be the name of a run"):
        load_results(folder_store, ["../datasets"])


def test_damaged_evaluation_names_its_place(compared: Store):
    key = layout.evaluation("drrho-small", "shapes", "heldout")
    compared.write(key, b'{"kind": "run"}')
    with pytest.raises(DataError, match="cannot be read") as raised:
        load_results(compared, ["drrho-small"])
    assert compared.uri_of(key) in str(raised.value)


@pytest.mark.parametrize("data", [b"{", b"[1]", b'"text"', b"\xff\xfe"], ids=["cut short", "list", "string", "not UTF-8"])
def test_damaged_summary_names_its_place(compared: Store, data: bytes):
    key = layout.run_summary("drrho-small")
    compared.write(key, data)
    with pytest.raises(DataError, match="cannot be read") as raised:
        load_results(compared, ["drrho-small"])
    assert compared.uri_of(key) in str(raised.value)


def test_a_reference_that_is_a_run_shows_how_it_was_trained(compared: Store):
    compared.write(layout.run_summary("teacher"), json.dumps({"run": "teacher", "samples_seen": 1234}).encode())
    assert load_results(compared, ["drrho-small"]).references[0].summary["samples_seen"] == 1234


def test_a_reference_evaluated_only_as_a_run_is_found(compared: Store):
    key = layout.reference_evaluation("shapes", "clean", "heldout")
    compared.write(layout.evaluation("teacher", "shapes", "heldout"), compared.read(key))
    expected = load_results(compared, ["drrho-small"]).references[0].evaluation
    compared.delete(key)
    assert expected is not None
    assert load_results(compared, ["drrho-small"]).references[0].evaluation == expected


def test_an_evaluation_without_classification_stands_in(compared: Store):
    for of in (partial(layout.evaluation, "drrho-small", "shapes"), partial(layout.reference_evaluation, "shapes", "clean")):
        compared.write(of("heldout-none"), compared.read(of("heldout")))
        compared.delete(of("heldout"))
    results = load_results(compared, ["drrho-small"])
    assert results.runs[0].evaluation
    assert results.references[0].evaluation


def test_evaluation_on_another_dataset_is_not_taken_for_this_one(compared: Store):
    results = load_results(compared, ["drrho-small"], dataset="other")
    assert not results.runs[0].evaluation
    assert not results.references[0].evaluation
