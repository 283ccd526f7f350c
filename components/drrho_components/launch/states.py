"""What a pod's status and its events say, in the words that a user needs: pure functions over the API's dicts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from drrho_clip.observe.memory import MEMORY
from drrho_clip.training.failure import CONSEQUENCES, PEER_LOST, parse_failure
from drrho_components.kube import Object

STARTING = {"ContainerCreating", "PodInitializing"}
OWN_ERRORS = {"ConfigError", "DataError", "ModelError", "TrainingError"}
"""Kinds of failures that another attempt with the same settings would meet again."""
PEERS_SPEAK = re.compile(r"gloo|ProcessGroupNCCL|DistBackendError|DistNetworkError|SIGABRT|Connection (reset|closed) by peer")
KILLED = "exitcode: -9"  # as torchrun logs it
LOST = {
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
    "PreemptionByScheduler": "Preempted",
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One end of a pod or of its container that was not meant. `key` is the same however often it is looked at."""

    pod: str
    key: str
    kind: str
    what: str
    fix: str = ""
    at: str = ""
    final: bool = False
    """Another attempt would end the same way."""

    @property
    def order(self) -> tuple[bool, str]:
        """The first cause comes first: who only lost its peers, or was asked to stop with them, is never it."""
        return self.kind in CONSEQUENCES, self.at


def failures(pod: Object) -> list[Failure]:
    """Every failure that a pod's status still tells of; a pod that was ended is one, whatever its containers ended with."""
    status, name, uid = pod.get("status", {}), pod["metadata"]["name"], pod["metadata"]["uid"]
    if (lost := _disruption(pod)) is not None:
        kind, what, at = lost
        return [Failure(pod=name, key=f"{uid}/pod", kind=kind, what=what, at=at)]
    found = []
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        for state in (container.get("lastState", {}), container.get("state", {})):
            ended = state.get("terminated")
            if ended and ended.get("exitCode") != 0:
                key = f"{uid}/{container['name']}/{ended.get('containerID') or ended.get('finishedAt')}"
                found.append(_ended(pod, container["name"], ended, key))
    return found


def with_peak(failure: Failure, log: str) -> Failure:
    """The failure with the most memory that the pod's `log` speaks of, where it ran out of it."""
    if failure.kind != "OOMKilled":
        return failure
    peak = 0
    for line in log.splitlines():
        if f'"event": "{MEMORY}"' in line:
            try:
                peak = max(peak, json.loads(line)["used"])
            except (ValueError, KeyError):  # cut off in the middle
                continue
    return replace(failure, what=f"{failure.what}, peak seen {peak / 2**20:,.0f} MiB") if peak else failure


def waiting(pod: Object) -> tuple[str, str] | None:
    """Why a pod does not run yet, as a reason and its message; None where it runs, has ended or is just starting."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = container.get("state", {}).get("waiting")
        if state and state.get("reason") not in STARTING:
            again = container.get("restartCount", 0)
            restarts = f" (restarted {again} times)" if again else ""
            return str(state.get("reason")), f"{container['name']}: {state.get('message', '')}{restarts}"
    return None


def running(pod: Object) -> bool:
    """Whether the pod's containers run or have ended well."""
    phase = pod.get("status", {}).get("phase")
    states = [container.get("state", {}) for container in pod.get("status", {}).get("containerStatuses") or []]
    return phase == "Succeeded" or (phase == "Running" and bool(states) and all("running" in state for state in states))


def started(pod: Object, container: str) -> bool:
    """Whether there is a log of the container."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == container:
            return bool({"running", "terminated"} & (status.get("state", {}).keys() | status.get("lastState", {}).keys()))
    return False


def restarts(pod: Object) -> int:
    """How often the pod's containers were started again."""
    return sum(container.get("restartCount", 0) for container in pod.get("status", {}).get("containerStatuses") or [])


def ended(pod: Object) -> bool:
    """Whether nothing of the pod will run again."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _disruption(pod: Object) -> tuple[str, str, str] | None:
    status = pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            kind = LOST.get(condition.get("reason", ""), "Evicted")
            node = pod.get("spec", {}).get("nodeName", "its node")
            return kind, f"{_short(pod)} left {node}: {condition.get('message', kind)}", condition.get("lastTransitionTime", "")
    if status.get("reason") in ("Evicted", "NodeLost", "Shutdown", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory"):
        return status["reason"], f"{_short(pod)} was ended ({status['reason']}): {status.get('message', '')}", ""
    if (at := pod["metadata"].get("deletionTimestamp")) is not None and status.get("phase") != "Succeeded":
        grace = timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds", 0))  # the time stamp is that of its end
        return "Deleted", f"{_short(pod)} was deleted from outside", f"{datetime.fromisoformat(at) - grace:%Y-%m-%dT%H:%M:%SZ}"
    return None


def _ended(pod: Object, container: str, state: Object, key: str) -> Failure:
    name, at, code = pod["metadata"]["name"], state.get("finishedAt", ""), state.get("exitCode")
    message = (state.get("message") or "").strip()
    own = parse_failure(message)
    if state.get("reason") == "OOMKilled" or (own is None and KILLED in message):
        sure = "ran out of memory" if state.get("reason") == "OOMKilled" else "was killed, most likely for want of memory"
        what = f"{_short(pod)} {sure} ({state.get('reason')}, exit code {code}): limit {_limit(pod, container)}"
        fix = "Raise node_memory, or lower workers or batch_size."
        return Failure(pod=name, key=key, kind="OOMKilled", what=what, fix=fix, at=at)
    if own is not None:
        where = f" ({own['where']})" if own["where"] else ""
        what, fix, kind = f"{_short(pod)}: {own['what']}{where}", own["fix"], own["kind"]
        return Failure(pod=name, key=key, kind=kind, what=what, fix=fix, at=at, final=kind in OWN_ERRORS)
    kind = PEER_LOST if PEERS_SPEAK.search(message) else str(state.get("reason") or "Error")
    last = f": {message.splitlines()[-1]}" if message else ""
    return Failure(pod=name, key=key, kind=kind, what=f"{_short(pod)}: {container} ended with exit code {code}{last}", at=at)


def _short(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _limit(pod: Object, container: str) -> str:
    for item in pod.get("spec", {}).get("containers") or []:
        if item["name"] == container:
            return str(item.get("resources", {}).get("limits", {}).get("memory", "none"))
    return "none"
