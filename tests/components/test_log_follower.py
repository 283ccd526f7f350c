"""A log over connections that break: the API is played, since a real one cannot be made to break at a certain byte."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from drrho_components.kube import ClusterError
from drrho_components.launch.logs import LogFollower, Resumed


def stamped(*numbers: int, text: str = "line") -> list[bytes]:
    return [f"2026-01-01T00:00:{n // 10:02d}.{n % 10}00000000Z {text} {n}".encode() for n in numbers]


class Scripted:
    """Answers each request for the current log with the next of `turns`, as sinceTime asks; None = the connection breaks."""

    def __init__(self, *turns: list[bytes | None], previous: list[bytes] | None = None) -> None:
        self.turns, self.previous = list(turns), previous
        self.asked: list[str] = []

    def lines(self, path: str, read_timeout: float, **query: Any) -> Iterator[bytes]:
        if query.get("previous"):
            if self.previous is None:
                raise ClusterError("there is no previous container", status=400)
            yield from self.previous
            return
        since = query.get("sinceTime", "")
        self.asked.append(since)
        for line in self.turns.pop(0) if self.turns else []:
            if line is None:
                raise ClusterError("The connection broke")
            if line.decode()[:19] >= since[:19]:
                yield line


def read(cluster: Any) -> list[str]:
    taken: list[str] = []
    follower = LogFollower(cluster, "/pods/p", "pytorch", taken.append)
    while cluster.turns:
        follower._closed.wait(0.05)
    follower.join(10)
    assert list(follower.tail) == taken
    return taken


def test_every_line_comes_once_over_broken_connections():
    log = stamped(*range(40))
    cluster = Scripted([*log[:15], None], [*log[:15], None], [*log[:33], None], log)
    assert read(cluster) == [f"line {n}" for n in range(40)]
    assert cluster.asked[1] == "2026-01-01T00:00:01Z"


def test_lines_of_the_same_moment_are_told_apart_by_their_number():
    same = [b"2026-01-01T00:00:00.5Z a", b"2026-01-01T00:00:00.5Z a", b"2026-01-01T00:00:00.5Z b"]
    cluster = Scripted([same[0], None], [*same[:2], None], same)
    assert read(cluster) == ["a", "a", "b"]


def test_what_a_container_wrote_before_it_was_started_again_is_not_lost():
    first, second = stamped(0, 1, 2, 3, text="first"), stamped(20, 21, text="second")
    cluster = Scripted([*first[:2], None], second, previous=first)
    assert read(cluster) == ["first 0", "first 1", "first 2", "first 3", "second 20", "second 21"]


def test_what_the_kubelet_says_in_place_of_a_log_is_no_line_of_it():
    """It comes without a time, between two lives of a container."""
    excuse = b"unable to retrieve container logs for containerd://3ae02620de93"
    cluster = Scripted([*stamped(0, 1), excuse], [excuse], stamped(0, 1, 2))
    assert read(cluster) == ["line 0", "line 1", "line 2"]


class Endless(Scripted):
    """A container that writes on and on."""

    def lines(self, path: str, read_timeout: float, **query: Any) -> Iterator[bytes]:
        yield from stamped(*range(20))
        for number in itertools.count():
            time.sleep(0.001)
            yield f"2026-01-01T00:01:00.{number:09d}Z more".encode()


def test_nothing_is_handed_over_after_the_end():
    taken: list[str] = []
    follower = LogFollower(Endless(), "/pods/p", "pytorch", taken.append)
    while len(taken) < 30:
        time.sleep(0.001)
    follower.close()
    there = len(taken)
    follower._thread.join(10)
    assert not follower._thread.is_alive()
    assert len(taken) == there


@pytest.mark.parametrize("zone", ["Z", "+02:00"])
def test_the_clock_of_the_node_may_be_anywhere(zone: str):
    resumed = Resumed()
    assert list(resumed.new([f"2026-01-01T12:00:00.123456789{zone} x".encode()])) == ["x"]
    assert resumed.since == {"sinceTime": "2026-01-01T12:00:00Z" if zone == "Z" else "2026-01-01T10:00:00Z"}
