"""The stand-in for the server answers the recorded requests as the recorded server did."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from kfp_stand_in import Execution, StandIn

RECORDED = json.loads((Path(__file__).parents[1] / "kfp_stand_in/exchanges.json").read_text())
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
WORKFLOW = re.compile(r"(lab-two-step|lab-fail)-[a-z0-9]{5}")
OPEN = ("PENDING", "RUNNING")


def pipeline(name: str, **parameters: str) -> str:
    """A compiled pipeline of this name and these parameters (name to type), with no step of its own."""
    inputs = {"parameters": {key: {"parameterType": kind} for key, kind in parameters.items()}}
    return yaml.safe_dump({"pipelineInfo": {"name": name}, "root": {"inputDefinitions": inputs, "dag": {"tasks": {}}}})


TWO_STEP = pipeline("lab-two-step", n="NUMBER_INTEGER", seed="STRING")
FAIL = pipeline("lab-fail")


class Scripts:
    """What the three recorded runs did, at the pace of the replay."""

    def __init__(self) -> None:
        self.go_on, self.ends = threading.Event(), threading.Event()
        self._runs = iter((self._two_steps_and_a_loop, self._waits, self._fails))

    def __call__(self, execution: Execution) -> None:
        next(self._runs)(execution)

    def _two_steps_and_a_loop(self, execution: Execution) -> None:
        execution.prepare("make-data")
        self.go_on.wait(30)
        for step in (("make-data",), ("train",), ("for-loop-1", 0, "count"), ("for-loop-1", 1, "count")):
            execution.begin(*step)
            execution.end(*step)

    def _waits(self, execution: Execution) -> None:
        execution.prepare("make-data")
        execution.cancelled.wait(30)
        self.ends.wait(30)

    def _fails(self, execution: Execution) -> None:
        execution.begin("boom")
        execution.end("boom", state="FAILED")


class Replay:
    """Sends the recorded requests, with the ids that this server gave for the recorded ones, and compares the answers."""

    def __init__(self, server: StandIn, scripts: Scripts) -> None:
        self._server, self._scripts = server, scripts
        self._ids: dict[str, str] = {}

    def check(self, exchange: dict[str, Any]) -> None:
        self._pace(exchange)
        asked: dict[str, Any] = {"params": self._translated(exchange.get("query", []))}
        if "form" in exchange:
            asked["files"] = {"uploadfile": ("pipeline.yaml", TWO_STEP)}
        if "body" in exchange:
            asked["json"] = {
                **self._translated(exchange["body"]),
                **({"pipeline_spec": yaml.safe_load(FAIL)} if "pipeline_spec" in exchange["body"] else {}),
            }
        answer = requests.request(exchange["method"], self._server.url + self._translated(exchange["path"]), timeout=30, **asked)
        assert (answer.status_code, exchange["call"]) == (exchange["status"], exchange["call"])
        self._compare(exchange["response"], answer.json(), exchange["call"])

    def _pace(self, exchange: dict[str, Any]) -> None:
        """Wait until the run is where the recorded one was."""
        call, response = exchange["call"], exchange["response"]
        state = response.get("state")
        if state == "PENDING":
            self._server.objects.may_start.clear()
            return
        self._server.objects.may_start.set()
        if call == "terminate_run":
            wait_until(lambda: len(list(self._server.objects.executions.values())[-1].task_details()) == 8)
        if call.startswith("get_run") and state in ("RUNNING", "SUCCEEDED", "FAILED"):
            execution = self._server.execution(self._translated(response["run_id"]))
            if state != "RUNNING":
                (self._scripts.go_on if state == "SUCCEEDED" else self._scripts.ends).set()
            wait_until(lambda: execution.state == state and (state != "RUNNING" or len(execution.task_details()) == 8))

    def _translated(self, recorded: Any) -> Any:
        text = UUID.sub(lambda match: self._ids.get(match[0], match[0]), json.dumps(recorded))
        return json.loads(text)

    def _compare(self, recorded: Any, answered: Any, where: str) -> None:
        if isinstance(recorded, dict):
            assert (set(answered), where) == (set(recorded), where)
            for key in recorded:
                self._compare_field(key, recorded[key], answered[key], f"{where}: {key}")
        elif isinstance(recorded, list):
            assert (len(answered), where) == (len(recorded), where)
            for one, other in zip(by_name(recorded), by_name(answered), strict=True):  # made in one second, in any order
                self._compare(one, other, where)
        elif isinstance(recorded, str) and TIME.fullmatch(recorded):
            assert TIME.fullmatch(answered), where
        elif isinstance(recorded, str) and UUID.fullmatch(recorded):
            assert self._ids.setdefault(recorded, answered) == answered, where
        else:
            assert (type(answered), answered) == (type(recorded), self._translated(recorded)), where

    def _compare_field(self, key: str, recorded: Any, answered: Any, where: str) -> None:
        if key == "pipeline_spec":  # left out of the recording
            assert answered["pipelineInfo"]["name"] in ("lab-two-step", "lab-fail")
        elif key == "next_page_token":
            assert isinstance(answered, str), where
        elif key == "task_details":
            assert (nodes(answered), where) == (nodes(recorded), where)
        else:
            self._compare(recorded, answered, where)


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def by_name(items: list[Any]) -> list[Any]:
    """Named things in the order of their names, other things as they are."""
    return sorted(items, key=lambda item: item.get("display_name", "") if isinstance(item, dict) else "")


def nodes(details: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """What is said about a run's nodes: their names, states, and fields; those that never began say nothing."""
    found: Counter[tuple[Any, ...]] = Counter()
    for node in details:
        states = [OPEN[0] if item.get("state") in OPEN else item.get("state") for item in node.get("state_history", [])]
        if "display_name" in node and None in states:
            continue
        name = WORKFLOW.sub("workflow", node.get("display_name", ""))
        state = "OPEN" if node.get("state") in OPEN else node.get("state")
        fields = frozenset(node) - {"child_tasks"}  # what comes after a node is listed below it or not, as the workflow has it
        found[(name, state, "" if state == "OPEN" else "".join(states[-1:]), fields)] += 1
    return found


def test_the_recorded_requests_are_answered_as_they_were():
    scripts = Scripts()
    with StandIn(scripts) as server:
        replay = Replay(server, scripts)
        for exchange in RECORDED:
            replay.check(exchange)
    assert len(RECORDED) == 44


def test_a_change_of_the_answers_would_be_found():
    scripts = Scripts()
    with StandIn(scripts) as server:
        replay = Replay(server, scripts)
        with pytest.raises(AssertionError):
            replay.check({**RECORDED[0], "response": {**RECORDED[0]["response"], "multi_user": True}})
        with pytest.raises(AssertionError):
            replay.check({**RECORDED[0], "status": 404})
