"""One launcher's time with its job: made or found, watched, told of, ended."""

from __future__ import annotations

import json
import queue
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from drrho_clip.errors import LaunchError, StorageError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, layout
from drrho_components.kube import Cluster, ClusterError, Object, connect
from drrho_components.launch import states
from drrho_components.launch.incidents import Incidents
from drrho_components.launch.kind import JobKind, Phase
from drrho_components.launch.logs import KEPT_LINES, LogFollower
from drrho_components.launch.plan import SPEC, Plan
from drrho_components.launch.queues import QueueNews
from drrho_components.launch.watcher import JobKeeper, Watcher

GONE_SECONDS = 180.0  # for the pods of a job that is replaced to end
DELETE_SECONDS = 10.0
COLLECTIVES_SECONDS = 360.0  # in which all processes notice that one is lost


class Session:
    """Brings the job of a plan to its end. `run` returns when the training is done, and raises why it is not."""

    def __init__(self, cluster: Cluster, kind: JobKind, plan: Plan, store: Store) -> None:
        self.cluster, self.kind, self.plan, self.store = cluster, kind, plan, store
        self.config = plan.config
        self.jobs = kind.jobs(plan.namespace)
        self.path = f"{self.jobs}/{plan.name}"
        self.pods_path = f"/api/v1/namespaces/{plan.namespace}/pods"
        self.selector = {"labelSelector": f"{kind.job_label}={plan.name}"}
        self.manifest = kind.manifest(plan)
        self.changes: queue.Queue[tuple[str, Object | None]] = queue.Queue()
        self.incidents = Incidents(self.config.restarts, COLLECTIVES_SECONDS)
        self.queue_news = QueueNews(cluster, plan.namespace)
        self.ends = time.monotonic() + self.config.deadline if self.config.deadline else None
        self.seen: set[tuple[str, ...]] = set()
        self.followers: dict[str, LogFollower] = {}
        self.uid = ""

    def run(self) -> None:
        """See Launcher."""
        keeper = JobKeeper(connect(), self.path, lambda job: self.changes.put(("job", job)))
        watchers = []
        try:
            with _ended_by_sigterm(keeper):
                self._take_up()
                watchers = [self._watch_pods(), self._watch_events()]
                while not self._finished():
                    self._replace("ended_early")
        except BaseException:
            if keeper.delete(DELETE_SECONDS) and self.uid:
                get_logger().info("job_deleted", job=self.plan.name)
            raise
        finally:
            for follower in self.followers.values():
                follower.close()  # a pod that is being ended still writes, and the last word is the reason
            for watcher in watchers:
                watcher.close()
            keeper.close()

    def _take_up(self) -> None:
        """Find the job that an earlier attempt left, where it is the same and still works; else make it."""
        found = self.cluster.find(self.path)
        if found is None:
            return self._create()
        same = found["metadata"].get("annotations", {}).get(SPEC) == self.manifest["metadata"]["annotations"][SPEC]
        phase = self.kind.phase(found)
        working = phase not in (Phase.SUCCEEDED, Phase.FAILED) and "deletionTimestamp" not in found["metadata"]
        if same and working:
            get_logger().info("job_found", job=self.plan.name, phase=phase.value)
            return self._own(found)
        self._replace("other_settings" if working else phase.value)
        return None

    def _replace(self, why: str) -> None:
        """Delete the job, wait until its pods have ended, so that no two trainings write the same run, and make it anew."""
        get_logger().info("job_replaced", job=self.plan.name, reason=why)
        self.cluster.delete(self.path)
        until = time.monotonic() + GONE_SECONDS
        while self.cluster.find(self.path) or self.cluster.get(self.pods_path, **self.selector)["items"]:
            if time.monotonic() > until:
                raise LaunchError(f"The pods of the job '{self.plan.name}' do not end", fix="Look at them: kubectl get pods.")
            time.sleep(1)
        self._create()

    def _create(self) -> None:
        try:
            made = self.cluster.create(self.jobs, self.manifest)
        except ClusterError as error:
            raise LaunchError(f"The cluster refused the {self.kind.name}: {error.what}", where=self.path) from None
        get_logger().info("job_created", job=self.plan.name, kind=self.kind.name, namespace=self.plan.namespace)
        self._own(made)

    def _own(self, job: Object) -> None:
        self.job, self.uid, self.phase = job, job["metadata"]["uid"], self.kind.phase(job)
        self.pods: dict[str, Object] = {}
        self.why: dict[str, tuple[str, str]] = {}
        self.incomplete: float | None = time.monotonic()
        self.said = ""

    def _watch_pods(self) -> Watcher:
        def take(pod: Object, gone: bool) -> None:
            self.changes.put(("gone" if gone else "pod", pod))

        return Watcher(self.cluster, self.pods_path, self.selector, take)

    def _watch_events(self) -> Watcher:
        def take(event: Object, gone: bool) -> None:
            if not gone and event["involvedObject"].get("name", "").startswith(self.plan.name):
                self.changes.put(("event", event))

        path = f"/api/v1/namespaces/{self.plan.namespace}/events"
        return Watcher(self.cluster, path, {"fieldSelector": "type=Warning"}, take)

    def _finished(self) -> bool:
        """Watch until the job ends; False where it has to be made again."""
        while True:
            self._take_changes()
            now = time.monotonic()
            if self.phase == Phase.SUCCEEDED:
                self._read_logs_to_the_end()
                if self.store.head(layout.run_summary(self.plan.run)) is not None:
                    return True
                self.incidents.judge(now, "The job ended without finishing the run: its pods lost sight of the launcher")
                return False
            if self.phase == Phase.FAILED:
                self.incidents.judge(now, f"The {self.kind.name} failed: {self._condition('Failed')}")
                return False
            if self.phase == Phase.SUSPENDED:
                self.incidents.forget()
                self.queue_news.tell(self.job, now)
            elif self.incidents.settled(now):
                self.incidents.judge(now, "")
            self._check_time(now)

    def _take_changes(self) -> None:
        """Take what has changed; wait a second for something to."""
        try:
            change = self.changes.get(timeout=1.0)
            while True:
                self._take(*change)
                change = self.changes.get_nowait()
        except queue.Empty:
            return

    def _take(self, what: str, item: Object | None) -> None:
        if what == "job":
            self._take_job(item)
        elif what == "event" and item is not None:
            self._take_event(item)
        elif item is not None and self._belongs(item):
            self._take_pod(item, gone=what == "gone")

    def _belongs(self, pod: Object) -> bool:
        return bool(pod["metadata"]["creationTimestamp"] >= self.job["metadata"]["creationTimestamp"])

    def _take_job(self, job: Object | None) -> None:
        if job is None and self.cluster.find(self.path) is None:
            raise LaunchError(
                f"The job '{self.plan.name}' was deleted by somebody else",
                where=f"namespace {self.plan.namespace}",
                fix="Start the step again: training goes on from its newest checkpoint.",
            )
        if job is not None and job["metadata"]["uid"] == self.uid:
            phase = self.kind.phase(job)
            if phase != self.phase:
                get_logger().info("job_" + phase.value, job=self.plan.name)
            self.job, self.phase = job, phase

    def _take_pod(self, pod: Object, *, gone: bool) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if gone:
            self.pods.pop(uid, None)
        else:
            self.pods[uid] = pod
        self._follow(pod, gone=gone)
        reason = None if gone else states.waiting(pod)
        if reason is None:
            self.why.pop(uid, None)
            if states.running(pod) and not gone:
                self._once(("runs", uid, str(states.restarts(pod))), "pod_runs", pod=name, node=pod["spec"].get("nodeName", ""))
        elif not (reason[0] == "ImagePullBackOff" and self.why.get(uid, ("",))[0] == "ErrImagePull"):
            self.why[uid] = reason
            self._once(("waits", uid, *reason), "pod_waits", pod=name, reason=reason[0], message=reason[1])
        if self.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED):
            return
        for failure in states.failures(pod):
            if self._once(("failed", failure.key), "pod_failed", pod=name, kind=failure.kind, reason=failure.what):
                self.incidents.add(states.with_peak(failure, self._keep_log(pod)), time.monotonic())

    def _take_event(self, event: Object) -> None:
        at = event.get("lastTimestamp") or event.get("eventTime") or ""
        if at[:19] < self.job["metadata"]["creationTimestamp"][:19]:
            return
        reason, message = event.get("reason", ""), event.get("message", "")
        self.said = f"{reason}: {message}"
        about = event["involvedObject"]["name"]
        self._once(("event", about, reason, message), "cluster_event", about=about, reason=reason, message=message)

    def _once(self, key: tuple[str, ...], event: str, **facts: str) -> bool:
        """Log something that has not been said yet; whether it was new."""
        if key in self.seen:
            return False
        self.seen.add(key)
        get_logger().info(event, **facts)
        return True

    def _follow(self, pod: Object, *, gone: bool) -> None:
        uid, first = pod["metadata"]["uid"], self.kind.first(pod)
        if first is not False and uid not in self.followers and not gone and states.started(pod, self.kind.container):
            take = _print if first else _print_first
            path = f"{self.pods_path}/{pod['metadata']['name']}"
            self.followers[uid] = LogFollower(self.cluster, path, self.kind.container, take)
        if uid in self.followers and (gone or states.ended(pod)):
            self.followers[uid].ended()

    def _read_logs_to_the_end(self) -> None:
        for follower in self.followers.values():
            follower.join(15)

    def _keep_log(self, pod: Object) -> str:
        """Put the last lines of a failed pod into the store, while there are any, and return them."""
        name = pod["metadata"]["name"]
        text = ""
        for previous in ("true", "false") if states.restarts(pod) else ("false",):
            query = {"container": self.kind.container, "tailLines": KEPT_LINES, "previous": previous}
            try:
                text = text or self.cluster.text(f"{self.pods_path}/{name}/log", **query)
            except ClusterError:
                continue
        follower = self.followers.get(pod["metadata"]["uid"])
        text = text or "".join(f"{line}\n" for line in (follower.tail if follower else ()))
        try:
            if text:
                self.store.write(layout.run_pod_log(self.plan.run, name), text.encode())
        except StorageError as error:
            get_logger().warning("log_not_kept", pod=name, reason=str(error))
        return text

    def _check_time(self, now: float) -> None:
        if self.ends is not None and now > self.ends:
            raise LaunchError(f"Training took longer than {self.config.deadline} s", where="deadline", fix="Raise deadline.")
        running = sum(map(states.running, self.pods.values()))
        if running >= self.config.nodes:
            self.incomplete = None
        elif self.incomplete is None or self.phase == Phase.SUSPENDED:
            self.incomplete = now
        elif now - self.incomplete > self.config.start_timeout:
            raise LaunchError(
                f"{running} of {self.config.nodes} pods run after {self.config.start_timeout} s: {self._why()}",
                where=f"job {self.plan.name}, namespace {self.plan.namespace}",
                fix="Remove the cause, or raise start_timeout where the cluster only needs more time.",
            )

    def _why(self) -> str:
        reasons = [f"{self.pods[uid]['metadata']['name']}: {reason}: {text}" for uid, (reason, text) in self.why.items()]
        if reasons:
            return "; ".join(dict.fromkeys(reasons))
        if self.phase == Phase.WAITING and not self.said:
            return f"{self.kind.operator} has not looked at the job: is it running?"
        return self.said or "the cluster gives no reason"

    def _condition(self, name: str) -> str:
        found = [item for item in self.job.get("status", {}).get("conditions") or [] if item["type"] == name]
        return ": ".join(filter(None, (found[-1].get("reason"), found[-1].get("message")))) if found else ""


@contextmanager
def _ended_by_sigterm(keeper: JobKeeper) -> Iterator[None]:
    """On SIGTERM delete the job first and then end: a terminated step's container is gone within a second."""

    def end(number: int, _frame: FrameType | None) -> None:
        keeper.delete(DELETE_SECONDS)
        raise SystemExit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _print_first(line: str) -> None:
    """Print a line of rank 0, which may be in any pod of an elastic job."""
    try:
        rank = json.loads(line).get("rank")
    except (ValueError, AttributeError):
        return
    if rank == 0:
        _print(line)
