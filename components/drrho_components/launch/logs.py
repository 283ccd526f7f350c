"""A container's log, followed live over broken connections and restarts: every line once, in order."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from drrho_components.kube import Cluster, ClusterError

KEPT_LINES = 200
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")  # RFC 3339, as the kubelet writes it


class Resumed:
    """Takes lines that begin with the time of the kubelet, drops those that came before, and remembers where it is.

    A line without a time is the kubelet's own word ("unable to retrieve container logs for ..."), not the container's: dropped.
    """

    def __init__(self) -> None:
        self.last = ""
        self._same = 0  # lines taken with the time `last`

    def new(self, lines: Iterable[bytes]) -> Iterable[str]:
        """Yield the texts of the lines that are new, from an answer that starts at `since` or before."""
        last, skip = self.last, self._same
        for line in lines:
            time, _, text = line.decode(errors="replace").partition(" ")
            if time < last or not TIME.fullmatch(time):
                continue
            if time == last and skip:
                skip -= 1
                continue
            self._same = self._same + 1 if time == self.last else 1
            self.last = time
            yield text

    @property
    def since(self) -> dict[str, str]:
        """Query that leaves out what is surely old: the API knows whole seconds."""
        if not self.last:
            return {}
        return {"sinceTime": datetime.fromisoformat(self.last).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


class LogFollower:
    """Hands every line of one container to `take`, in a thread, until the pod has ended and all is read."""

    def __init__(self, cluster: Cluster, pod_path: str, container: str, take: Callable[[str], None]) -> None:
        self._cluster, self._path, self._container, self._take = cluster, f"{pod_path}/log", container, take
        self._ended, self._closed = threading.Event(), threading.Event()
        self._taking = threading.Lock()
        self._resumed = Resumed()
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._thread = threading.Thread(target=self._follow, name="log", daemon=True)
        self._thread.start()

    def ended(self) -> None:
        """The pod will not write more: read what is left and stop."""
        self._ended.set()

    def join(self, seconds: float) -> None:
        """Wait until all is read, at most so long, and close."""
        self._ended.set()
        self._thread.join(seconds)
        self.close()

    def close(self) -> None:
        """Hand over no line from now on, though the container may still write."""
        with self._taking:
            self._closed.set()

    def _follow(self) -> None:
        while not self._closed.is_set():
            last_turn = self._ended.is_set()
            try:
                self._read(previous="true")  # what was written after the connection broke and before the container restarted
                self._read(follow="true")
            except ClusterError as error:
                if error.status == 404:
                    return
                last_turn = last_turn and not error.passing
            if last_turn or self._closed.wait(1.0):
                return

    def _read(self, **query: str) -> None:
        if "previous" in query and not self._resumed.last:
            return
        asked = {"container": self._container, "timestamps": "true", **query, **self._resumed.since}
        try:
            for text in self._resumed.new(self._cluster.lines(self._path, 60.0, **asked)):
                with self._taking:
                    if self._closed.is_set():
                        return
                    self.tail.append(text)
                    self._take(text)
        except ClusterError as error:
            if error.status != 400:  # there is no previous container, or this one has not started
                raise
