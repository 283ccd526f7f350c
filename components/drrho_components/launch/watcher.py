"""Threads that tell the run loop what changes in the cluster, and the one that can end the job at any moment."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Literal

from drrho_clip.observe import get_logger
from drrho_components.kube import Cluster, ClusterError, Object

WATCH_SECONDS = 50
AGAIN_SECONDS = 2.0
POLL_SECONDS = 3.0
SILENT_SECONDS = 60.0  # how often an API that does not answer is spoken of

Change = tuple[Literal["pod", "gone", "event", "job"], Object | None]
"""A pod as it is now or as it was when it went, an event, or the job (None: it is not there)."""


class Watcher:
    """Lists and then watches a collection in a thread, again and again, until it is closed."""

    def __init__(self, cluster: Cluster, path: str, query: dict[str, str], take: Callable[[Object, bool], None]) -> None:
        """`take` gets each object as it changes, and whether it went."""
        self._cluster, self._path, self._query, self._take = cluster, path, query, take
        self._known: dict[str, Object] = {}
        self._complained = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def close(self) -> None:
        """End the thread with the current answer."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._turn()
            except ClusterError as error:
                if error.status == 403:
                    get_logger().warning("not_seen", reason=str(error), fix="Give the launcher's role list and watch on it.")
                    return
                if error.status != 410:
                    self._complain(error)
                    self._closed.wait(AGAIN_SECONDS)

    def _turn(self) -> None:
        listed = self._cluster.get(self._path, **self._query)
        found = {item["metadata"]["uid"]: item for item in listed["items"]}
        for uid in self._known.keys() - found.keys():
            self._put(self._known[uid], gone=True)
        for item in found.values():
            self._put(item, gone=False)
        for change in self._cluster.watch(self._path, listed["metadata"]["resourceVersion"], WATCH_SECONDS, **self._query):
            if self._closed.is_set():
                return
            self._put(change["object"], gone=change["type"] == "DELETED")

    def _put(self, item: Object, *, gone: bool) -> None:
        uid = item["metadata"]["uid"]
        if not gone and self._known.get(uid, {}).get("metadata") == item["metadata"]:
            return  # listed again, unchanged
        if gone:
            self._known.pop(uid, None)
        else:
            self._known[uid] = item
        self._take(item, gone)

    def _complain(self, error: ClusterError) -> None:
        if time.monotonic() - self._complained > SILENT_SECONDS:
            self._complained = time.monotonic()
            get_logger().warning("cluster_silent", reason=str(error))


class JobKeeper:
    """Polls the job over a connection of its own, which is therefore warm when the job has to be deleted at once.

    `delete` may be called from a signal handler.
    """

    def __init__(self, cluster: Cluster, path: str, take: Callable[[Object | None], None]) -> None:
        self._cluster, self._path, self._take = cluster, path, take
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()  # its put is reentrant
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job", daemon=True)
        self._thread.start()

    def delete(self, wait: float) -> bool:
        """Delete the job; whether the cluster said yes within `wait` seconds."""
        self._orders.put("delete")
        return self._done.wait(wait)

    def close(self) -> None:
        """End the thread."""
        self._orders.put("close")
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                order = self._orders.get(timeout=POLL_SECONDS)
            except queue.Empty:
                self._poll()
                continue
            if order == "close":
                return
            self._delete()

    def _poll(self) -> None:
        try:
            self._take(self._cluster.find(self._path))
        except ClusterError as error:
            if not error.passing:
                get_logger().warning("cluster_silent", reason=str(error))

    def _delete(self) -> None:
        for _ in range(5):
            try:
                self._cluster.delete(self._path)
            except ClusterError as error:
                get_logger().warning("delete_failed", reason=str(error))
                if not error.passing:
                    return
                time.sleep(1)
            else:
                self._done.set()
                return
