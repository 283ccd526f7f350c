"""Schedules: what a cron expression means on the server, and making, replacing, pausing and removing a schedule."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drrho_clip.cli import run_app
from drrho_clip.errors import ConfigError
from drrho_pipelines.cli import make_full_app
from drrho_pipelines.server.cron import FIELDS, parse_cron
from kfp_stand_in import Execution, StandIn

pytestmark = pytest.mark.usefixtures("nobody_elses_settings")

STORE = ["-p", "store=s3://bucket/prefix"]
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)  # a Wednesday


def times(cron: str, count: int = 3) -> list[str]:
    return [f"{time:%Y-%m-%d %H:%M:%S}" for time in parse_cron(cron).next_times(NOW, count)]


def test_five_fields_get_a_second_and_six_pass():
    assert parse_cron("0 3 * * *").text == "0 0 3 * * *"
    assert parse_cron(" 30  0 3 * * * ").text == "30 0 3 * * *"


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", ["2026-11-26 03:00:00", "2026-11-27 03:00:00", "2026-11-28 03:00:00"]),
        ("*/25 3 * * *", ["2026-11-25 03:25:00", "2026-11-25 03:50:00", "2026-11-26 03:00:00"]),
        ("50/5 2-3 * * *", ["2026-11-25 03:50:00", "2026-11-25 03:55:00", "2026-11-26 02:50:00"]),
        ("10,20 0 3 * * *", ["2026-11-25 03:00:10", "2026-11-25 03:00:20", "2026-11-26 03:00:10"]),
        ("0 12 ? * MON-fri", ["2026-11-25 12:00:00", "2026-11-26 12:00:00", "2026-11-27 12:00:00"]),
        ("0 0 1 jan,Jul *", ["2027-01-01 00:00:00", "2027-07-01 00:00:00", "2028-01-01 00:00:00"]),
        ("0 0 * * 0", ["2026-11-29 00:00:00", "2026-12-06 00:00:00", "2026-12-13 00:00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        # a day of the month and a day of the week: either is enough, unless one of them is a star
        ("0 0 1 * fri", ["2026-11-27 00:00:00", "2026-12-01 00:00:00", "2026-12-04 00:00:00"]),
        ("0 0 */2 * fri", ["2026-11-27 00:00:00", "2026-12-11 00:00:00", "2026-12-25 00:00:00"]),
    ],
)
def test_the_next_times(cron: str, expected: list[str]):
    assert times(cron) == expected


@settings(max_examples=50, deadline=None)
@given(st.tuples(*(st.lists(st.integers(field.low, field.high), min_size=1, max_size=3) for field in FIELDS[:3])))
def test_next_times_are_those_that_a_clock_would_find(numbers: tuple[list[int], ...]):
    cron = parse_cron(" ".join([*(",".join(map(str, part)) for part in numbers), "*", "*", "*"]))
    every_second = (NOW + timedelta(seconds=second) for second in range(1, 86401))
    seconds, minutes, hours = map(set, numbers)
    expected = [time for time in every_second if time.second in seconds and time.minute in minutes and time.hour in hours]
    assert cron.next_times(NOW, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("", "has 0 fields"),
        ("@daily", "has 1 field."),
        ("0 3 * * * * 2027", "has 7 fields"),
        ("TZ=Europe/Berlin 0 3 * * * *", "has 7 fields"),
        ("60 3 * * *", "has '60' as minute, which goes from 0 to 59"),
        ("0 3 * * 7", "has '7' as day of the week, which goes from 0 to 6, and Sunday is 0"),
        ("0 3 0 * *", "has '0' as day of the month, which goes from 1 to 31"),
        ("0 3 L * *", "has 'L' as day of the month"),
        ("0 3 * * mon#2", "has 'mon#2' as day of the week"),
        ("5-3 * * * *", "has '5-3' as minute, which means nothing"),
        ("*/0 * * * *", "has '*/0' as minute, which means nothing"),
        ("1,,2 * * * *", "has '' as minute"),
        ("٣ * * * *", "has '٣' as minute"),
        ("0 0 31 2 *", "never comes"),
    ],
)
def test_anything_else_is_refused_with_the_reason(cron: str, problem: str):
    with pytest.raises(ConfigError) as error:
        parse_cron(cron)
    assert problem in str(error.value)
    assert "'0 3 * * *' is every day at 03:00 UTC" in str(error.value)


def succeeds(execution: Execution) -> None:
    execution.begin("ingest")
    execution.end("ingest")


def drrho(server: StandIn, *arguments: str) -> int:
    return run_app(make_full_app(), ["pipeline", *arguments, "--host", server.url])


def made(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def test_a_schedule_is_made_replaced_paused_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds) as server:
        assert drrho(server, "schedule", "steering", "--cron", "0 3 * * *", *STORE) == 0
        first = made(capsys)
        assert (first["cron"], first["replaced"], len(first["next"])) == ("0 0 3 * * *", 0, 3)
        assert all(time.endswith("03:00:00 UTC") for time in first["next"])
        kept = server.objects.recurring[first["id"]]
        version = server.objects.versions[kept["pipeline_version_reference"]["pipeline_version_id"]]
        assert version["name"] == first["version"]
        assert (kept["trigger"], kept["no_catchup"], kept["max_concurrency"]) == (
            {"cron_schedule": {"cron": "0 0 3 * * *"}},
            True,
            "1",
        )

        assert drrho(server, "schedule", "steering", "--cron", "0 30 4 * * *", "--no-cache", *STORE) == 0
        second = made(capsys)
        assert (second["replaced"], list(server.objects.recurring)) == (1, [second["id"]])
        assert second["version"] != first["version"]
        assert drrho(server, "schedule", "steering", "--cron", "0 5 * * *", "--name", "other", *STORE) == 0
        capsys.readouterr()

        assert drrho(server, "schedules") == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        facts = [(item["result"], item["cron"], item["state"], item["runs"]) for item in shown]
        assert facts[0] == ("schedule steering", "0 30 4 * * *", "ENABLED", f"drrho steering {second['version']}")
        for command, state in (("pause", "DISABLED"), ("resume", "ENABLED")):
            assert drrho(server, command, "steering") == 0
            assert server.objects.recurring[second["id"]]["status"] == state
        run_id = server.objects.fire(second["id"])
        assert server.objects.runs[run_id]["recurring_run_id"] == second["id"]

        assert drrho(server, "unschedule", "steerin") == 2
        assert "There is no schedule 'steerin' (experiment drrho). Did you mean steering?" in capsys.readouterr().err
        assert drrho(server, "unschedule", "steering") == 0
        assert [item["display_name"] for item in server.objects.recurring.values()] == ["other"]


def test_more_schedules_than_fit_a_page_are_all_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("drrho_pipelines.server.schedules.PAGE", 2)
    with StandIn(succeeds) as server:
        for name in ("a", "b", "c", "d", "e", "a"):
            assert drrho(server, "schedule", "steering", "--cron", "0 3 * * *", "--name", name, *STORE) == 0
        assert sorted(item["display_name"] for item in server.objects.recurring.values()) == list("abcde")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cron", "0 3 * *", *STORE], "has 4 fields"),
        (["--cron", "0 3 * * *", "-p", "store=here"], "is a folder"),
        (["--cron", "0 3 * * *", *STORE, "-p", "run=r-[[Index]]"], "which Kubeflow Pipelines does not replace"),
        (["--cron", "0 3 * * *", *STORE, "-p", "trian_seed=1"], "Did you mean train_seed"),
        ([], "Missing option '--cron'"),
    ],
)
def test_an_unusable_schedule_is_2_and_nothing_is_sent(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with StandIn(succeeds) as server:
        assert drrho(server, "schedule", "steering", *arguments) == 2
        assert server.requests == []
    assert message in capsys.readouterr().err


def test_a_schedule_that_the_server_refuses_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch):
    with StandIn(succeeds) as server:
        assert drrho(server, "schedule", "steering", "--cron", "0 3 * * *", *STORE) == 0
        before = list(server.objects.recurring)
        server.break_answer("POST /apis/v2beta1/recurringruns")
        assert drrho(server, "schedule", "steering", "--cron", "0 4 * * *", *STORE) == 3
        assert before[0] in server.objects.recurring
        assert drrho(server, "schedule", "steering", "--cron", "0 4 * * *", *STORE) == 0
        assert len(server.objects.recurring) == 1  # that one and the one whose answer was lost are both replaced
