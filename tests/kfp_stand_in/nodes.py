"""The nodes of a run's workflow, as the server lists them: each step is a driver, a node that repeats attempts, and a pod."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from drrho_pipelines.server.steps import node_id

ZERO = "0001-01-01T00:00:00Z"
Path = tuple[str | int, ...]
"""A step: the names of the loops and pipelines around it, a loop's followed by the number of the turn, and its own name."""


def now() -> str:
    """The time as the server writes it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass
class Node:
    """One node: what the server calls it, its states so far, and its children's paths."""

    name: str
    created: str
    started: str = field(default_factory=now)
    ended: str = ZERO
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    states: list[tuple[str, str]] = field(default_factory=list)
    children: list[str] = field(default_factory=list)

    def enter(self, state: str) -> None:
        """Enter a state."""
        self.states.append((now(), state))
        if state not in ("PENDING", "RUNNING"):
            self.ended = now()

    @property
    def state(self) -> str:
        """The state it is in."""
        return self.states[-1][1] if self.states else "PENDING"


class Nodes:
    """The nodes of one run, by their path in the workflow (`steering-x7k2p(0).root(0).train(0)`)."""

    def __init__(self, workflow: str) -> None:
        self.workflow = workflow
        self.created = now()
        self.finished: list[tuple[str, str]] = []
        self._nodes: dict[str, Node] = {}
        self._retried(workflow, "RUNNING")
        self._driver(f"{workflow}(0)", "root")
        self._retried(f"{workflow}(0).root", "RUNNING")

    def prepare(self, step: Path) -> None:
        """The step's driver begins to work."""
        parent = self._parent(step)
        driver = self._retried(f"{parent}.{step[-1]}-driver", "RUNNING")
        self._nodes[f"{driver}(0)"].states.insert(0, (now(), "PENDING"))
        self._nodes[parent].children.append(driver)

    def begin(self, step: Path, attempt: int = 0) -> str:
        """The step's pod begins to work; returns the pod's name."""
        parent = self._parent(step)
        if f"{parent}.{step[-1]}-driver" not in self._nodes:
            self.prepare(step)
        driver, path = f"{parent}.{step[-1]}-driver", f"{parent}.{step[-1]}"
        if path not in self._nodes:
            self._end(driver, "SUCCEEDED")
            self._retried(path, "RUNNING")
            self._nodes[f"{driver}(0)"].children.append(path)
            self._nodes[f"{path}(0)"].children.append(f"{path}(0).executor")
            self._retried(f"{path}(0).executor", "RUNNING")
            self._nodes[f"{path}(0).executor(0)"].states.insert(0, (now(), "PENDING"))
        executor = f"{path}(0).executor({attempt})"
        if executor not in self._nodes:
            self._add(executor, "RUNNING")
            self._nodes[f"{path}(0).executor"].children.append(executor)
        return node_id(self.workflow, executor)

    def end(self, step: Path, state: str) -> None:
        """The step ends."""
        path = f"{self._parent(step)}.{step[-1]}"
        if path not in self._nodes:
            self._end(f"{path}-driver", state)
            return
        for node in (f"{path}(0).executor", path):
            self._end(node, state)
        if state == "SUCCEEDED":
            self.finished.append((self._nodes[path].started, now()))

    def close(self, state: str) -> None:
        """The run ends: whatever is open ends with it."""
        for node in self._nodes.values():
            if node.state in ("PENDING", "RUNNING"):
                node.enter(state)

    def listed(self, run_id: str) -> list[dict[str, Any]]:
        """What the server says about the nodes."""
        details = [self._listed(run_id, node) for node in self._nodes.values()]
        extra = {"create_time", "start_time", "end_time"}
        records = [dict(zip(sorted(extra), (started, ended, started), strict=True)) for started, ended in self.finished]
        return details + [
            {"run_id": run_id, "task_id": str(uuid.uuid4()), **record, "execution_id": str(number)}
            for number, record in enumerate(records, start=1)
        ]

    def _listed(self, run_id: str, node: Node) -> dict[str, Any]:
        facts: dict[str, Any] = {"run_id": run_id, "task_id": node.task_id, "display_name": node.name}
        facts |= {"create_time": node.created, "start_time": node.started, "end_time": node.ended, "state": node.state}
        facts["state_history"] = [{"update_time": time, "state": state} for time, state in node.states]
        if node.children:
            facts["child_tasks"] = [{"pod_name": node_id(self.workflow, child)} for child in node.children]
        return facts

    def _parent(self, step: Path) -> str:
        """The path of what holds a step; loops and pipelines around it begin when they have not."""
        path = f"{self.workflow}(0).root(0)"
        for part in step[:-1]:
            path = self._turn(path, part) if isinstance(part, int) else self._group(path, part)
        return path

    def _group(self, path: str, name: str) -> str:
        group = f"{path}.{name}"
        if group not in self._nodes:
            self._retried(group, "RUNNING")
            self._nodes[path].children.append(group)
        return f"{group}(0)"

    def _turn(self, path: str, turn: int) -> str:
        loop = f"{path}.iteration-iterations"
        if loop not in self._nodes:
            self._driver(path, "iteration")
            self._add(loop, "RUNNING")
            self._nodes[f"{path}.iteration-driver(0)"].children.append(loop)
        item = f"{loop}({turn}:{turn})"
        if item not in self._nodes:
            self._nodes[loop].children.append(self._retried(item, "RUNNING"))
            self._driver(f"{item}(0)", "iteration-item")
            self._retried(f"{item}(0).iteration-item", "RUNNING")
            self._nodes[f"{item}(0).iteration-item-driver(0)"].children.append(f"{item}(0).iteration-item")
        return f"{item}(0).iteration-item(0)"

    def _driver(self, parent: str, name: str) -> None:
        driver = self._retried(f"{parent}.{name}-driver", "RUNNING")
        self._nodes[f"{driver}(0)"].states.insert(0, (now(), "PENDING"))
        self._nodes[parent].children.append(driver)
        self._end(driver, "SUCCEEDED")
        if name == "root":
            self._nodes[f"{driver}(0)"].children.append(f"{parent}.root")

    def _retried(self, path: str, state: str) -> str:
        self._add(path, state).children.append(f"{path}(0)")
        self._add(f"{path}(0)", state)
        return path

    def _add(self, path: str, state: str) -> Node:
        node = self._nodes[path] = Node(path.rpartition(".")[2], self.created)
        node.enter(state)
        return node

    def _end(self, path: str, state: str) -> None:
        for node in self._family(path):
            if node.state in ("PENDING", "RUNNING"):
                node.enter(state)

    def _family(self, path: str) -> Iterator[Node]:
        """A node that repeats, and its attempts."""
        yield self._nodes[path]
        yield from (self._nodes[child] for child in self._nodes[path].children if child.startswith(f"{path}("))
