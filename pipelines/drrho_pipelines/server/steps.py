"""The steps of a run, found in what the server says about it.

The server lists the nodes of the workflow that executes the run: for a step `train` its driver (`train-driver`), a node that
repeats attempts (`train`), each attempt (`train(0)`), and the same again for the pod inside (`executor`, `executor(0)`); a loop
adds more. The nodes carry names and states, and the ids of their children, but not their own. An id is the workflow's name and
the FNV-1a hash of the node's path, such as `steering-x7k2p(0).root(0).train(0).executor(0)`: so the paths can be found again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ATTEMPT = re.compile(r"(.*)\((\d+)\)", re.DOTALL)
ITERATION = re.compile(r"iteration-iterations\((\d+):\1\)")
CONTROL = re.compile(r"(for-loop|condition|condition-branches|exit-handler)-\d+|iteration(-item|-iterations.*)?|root")
"""Nodes that kfp adds for itself; what they hold are the steps."""
ATTEMPTS = 10
"""How many attempts of one step are looked for."""
DRIVER, EXECUTOR = "-driver", "executor"
PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"
CANCELING = "CANCELING"
ENDED = (SUCCEEDED, FAILED, CANCELED, "SKIPPED")
_NEVER = datetime.max


@dataclass
class Step:
    """A step of a run: its name (with [n] for each loop around it), its state, and the pods that ran it, the last one last."""

    name: str
    state: str = PENDING
    started: datetime = _NEVER
    ended: datetime = _NEVER
    pods: list[str] = field(default_factory=list)


def run_state(run: Any) -> str:
    """The state of a run; one that was terminated ends as FAILED on the server, and as CANCELED here."""
    state = str(run.state or PENDING)
    if state == FAILED and any(item.state == CANCELING for item in run.state_history or ()):
        return CANCELED
    return state


def run_steps(run: Any) -> list[Step]:
    """The steps of a run that have begun, in the order in which they did."""
    steps: dict[str, Step] = {}
    for path, (node, pods) in _nodes(run).items():
        *parents, last = path
        if last == EXECUTOR:
            step = _step(steps, parents)
            step.pods = pods
            step.ended = _time(node.end_time)
        elif last.endswith(DRIVER):
            name = last.removesuffix(DRIVER)
            if CONTROL.fullmatch(name) and node.state != FAILED:
                continue
            step = _step(steps, [*parents, name])
            step.started = min(step.started, _time(node.start_time))
            if node.state == FAILED and not step.pods:  # it never got as far as its own pod
                step.state, step.pods, step.ended = FAILED, pods, _time(node.end_time)
        elif not CONTROL.fullmatch(_without_attempt(last)):
            _step(steps, path).state = node.state or CANCELED
    for step in steps.values() if run_state(run) == CANCELED else ():
        step.state = CANCELED if step.state == FAILED else step.state
    return sorted(steps.values(), key=lambda step: step.started)


def first_failed(steps: list[Step]) -> Step | None:
    """The step that failed first: what came after may only be its consequence."""
    failed = [step for step in steps if step.state == FAILED and step.pods]
    return min(failed, key=lambda step: step.ended, default=None)


def _step(steps: dict[str, Step], path: list[str] | tuple[str, ...]) -> Step:
    *parents, last = path
    loops = "".join(f"[{match[1]}]" for match in map(ITERATION.match, parents) if match)
    name = _without_attempt(last) + loops
    return steps.setdefault(name, Step(name))


def _nodes(run: Any) -> Mapping[tuple[str, ...], tuple[Any, list[str]]]:
    """The nodes that repeat attempts (`train`, `train-driver`, `executor`) by path, drivers last, each with its attempts' ids."""
    tasks = [task for task in (run.run_details.task_details or () if run.run_details else ()) if task.display_name]
    paths = _paths({pod for task in tasks for pod in _children(task)}, {task.display_name for task in tasks})
    found: dict[tuple[str, ...], tuple[Any, list[str]]] = {}
    for task in tasks:
        attempts = sorted((_attempt(paths[child]), child) for child in _children(task) if child in paths)
        for (path, _), child in attempts:
            if path and path[-1] == task.display_name:
                found.setdefault(path, (task, []))[1].append(child)
    return dict(sorted(found.items(), key=lambda item: item[0][-1].endswith(DRIVER)))


def _attempt(path: str) -> tuple[tuple[str, ...], int]:
    """The path, below the workflow, of the node whose attempt `path` is, and the attempt's number; () where it is none."""
    match = ATTEMPT.fullmatch(path)
    return (tuple(match[1].split(".")[1:]), int(match[2])) if match else ((), 0)


def _paths(ids: set[str], names: set[str]) -> dict[str, str]:
    """The path of each id, by trying every name below every path that was found."""
    endings = [*(f"({number})" for number in range(ATTEMPTS)), *(f".{name}" for name in names)]
    found: dict[str, str] = {}
    todo = [(workflow, workflow, _hash(workflow)) for workflow in {pod.rpartition("-")[0] for pod in ids}]
    while todo:
        workflow, path, number = todo.pop()
        for ending in endings:
            below = _hash(ending, number)
            if (pod := f"{workflow}-{below}") in ids and pod not in found:
                found[pod] = path + ending
                todo.append((workflow, path + ending, below))
    return found


def node_id(workflow: str, path: str) -> str:
    """The id that Argo Workflows gives to the node at `path`."""
    return f"{workflow}-{_hash(path)}"


def _hash(text: str, number: int = 0x811C9DC5) -> int:
    """FNV-1a of 32 bits, going on from the hash of what stands before the text."""
    for byte in text.encode():
        number = (number ^ byte) * 0x01000193 & 0xFFFFFFFF
    return number


def _children(task: Any) -> list[str]:
    return [child.pod_name for child in task.child_tasks or () if child.pod_name]


def _without_attempt(name: str) -> str:
    return ATTEMPT.sub(r"\1", name)


def _time(value: Any) -> datetime:
    """A time of the server's; its year 1 means that there is none."""
    return value.replace(tzinfo=None) if isinstance(value, datetime) and value.year > 1 else _NEVER
