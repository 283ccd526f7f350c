"""Steps found in what a real server said about its runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api
import pytest

from drrho_pipelines.server.steps import Step, first_failed, run_state, run_steps
from kfp_stand_in.nodes import Nodes

RECORDED = json.loads((Path(__file__).parents[1] / "kfp_stand_in/exchanges.json").read_text())


def recorded(call: str, pick: int | None = None) -> Any:
    response = next(exchange["response"] for exchange in RECORDED if exchange["call"] == call)
    found = response if pick is None else response["runs"][pick]
    return kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(found)), "V2beta1Run")


def states(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.state for step in steps}


def test_a_run_that_is_just_created_has_none():
    assert run_steps(recorded("get_run just created")) == []


def test_a_step_whose_driver_works_is_pending():
    assert states(run_steps(recorded("get_run running"))) == {"make-data": "PENDING"}


def test_the_steps_of_a_run_with_a_loop_and_their_pods():
    steps = run_steps(recorded("get_run finished"))
    assert states(steps) == dict.fromkeys(("make-data", "train", "count[1]", "count[0]"), "SUCCEEDED")
    assert [step.pods for step in steps] == [
        ["lab-two-step-czwxl-3557602233"],
        ["lab-two-step-czwxl-265845224"],
        ["lab-two-step-czwxl-4047202772"],
        ["lab-two-step-czwxl-3818041056"],
    ]


@pytest.mark.parametrize(
    ("run", "state", "steps"),
    [
        (recorded("get_run just terminated"), "CANCELING", {"make-data": "PENDING"}),
        (recorded("get_run terminated, later"), "CANCELED", {"make-data": "CANCELED"}),
        (recorded("get_run failed"), "FAILED", {"boom": "RUNNING"}),
        (recorded("list_runs", 0), "FAILED", {"boom": "FAILED"}),
    ],
    ids=["terminating", "terminated", "failed, seen early", "failed"],
)
def test_the_state_of_a_run_and_its_steps(run: Any, state: str, steps: dict[str, str]):
    assert run_state(run) == state
    assert states(run_steps(run)) == steps


def test_the_pod_of_the_failed_step_is_the_one_with_the_traceback():
    failed = first_failed(run_steps(recorded("list_runs", 0)))
    assert failed is not None
    assert (failed.name, failed.pods) == ("boom", ["lab-fail-l2cct-1117500658"])


def test_nodes_whose_paths_cannot_be_found_are_left_out():
    run = recorded("get_run finished")
    for task in run.run_details.task_details:
        for child in task.child_tasks or ():
            child.pod_name = f"other-{child.pod_name}"
    assert run_steps(run) == []


def test_a_loop_of_many_turns_is_read_in_no_time():
    nodes = Nodes("steering-abcde")
    for turn in range(60):
        nodes.begin(("for-loop-1", turn, "reference"))
        nodes.end(("for-loop-1", turn, "reference"), "SUCCEEDED")
    details = {"run_id": "r", "state": "RUNNING", "run_details": {"task_details": nodes.listed("r")}}
    run = kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(details)), "V2beta1Run")
    before = time.process_time()
    steps = run_steps(run)
    assert time.process_time() - before < 3  # 0.2 here
    assert {step.name for step in steps} == {f"reference[{turn}]" for turn in range(60)}


def test_the_last_attempt_of_a_step_is_the_one_that_counts():
    nodes = Nodes("steering-abcde")
    pods = [nodes.begin(("train",), attempt) for attempt in range(3)]
    listed = nodes.listed("r")
    for node in listed:
        node.get("child_tasks", []).reverse()
    details = {"run_id": "r", "state": "RUNNING", "run_details": {"task_details": listed}}
    (step,) = run_steps(kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(details)), "V2beta1Run"))
    assert (step.name, step.state, step.pods) == ("train", "RUNNING", pods)
