"""A run has one writer at a time: rank 0 of its training holds the run's lease from before the first step to the end."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path

from drrho_clip.errors import TrainingError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, layout
from drrho_clip.storage.lease import KeptLease, Lease, release_lease, take_lease

LEASE_SECONDS = 60.0
LOOKED_SECONDS = 1.0
IDENTITIES = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"))
"""Of the machine since it was started, and of the container: where both are the same, numbers of processes mean the same."""


def this_process() -> str:
    """A holder's name: machine, number of the process, and where that number is valid."""
    return f"{platform.node()}/{os.getpid()}@{_place()}"


def take_run(store: Store, run: str, holder: str, seconds: float = LEASE_SECONDS) -> KeptLease:
    """The lease of `run`, to be kept by a `with` block; it is waited for as long as its holder may yet give a sign of life.

    TrainingError once the holder has: two trainings would overwrite each other's checkpoints and metrics.
    """
    key = layout.run_lease(run)
    waited_for: Lease | None = None
    while (lease := take_lease(store, key, holder, seconds)).holder != holder:
        if _has_ended(lease.holder):
            release_lease(store, key, lease.holder)
        elif waited_for is None:
            waited_for = lease
            get_logger().warning("run_waits", reason=f"'{lease.holder}' trains the run, or has ended without a word")
        elif (lease.holder, lease.expires) != (waited_for.holder, waited_for.expires):
            raise TrainingError(
                f"Run '{run}' is being trained by '{lease.holder}'",
                where=store.uri_of(layout.run(run)),
                fix="Wait for it, stop it, or choose another run name.",
            )
        else:
            time.sleep(LOOKED_SECONDS)
    return KeptLease(store, key, holder, seconds)


def _has_ended(holder: str) -> bool:
    """Whether `holder` is a process of this place that is no more: one that was killed, and need not be waited for."""
    name, _, place = holder.rpartition("@")
    number = name.rpartition("/")[2]
    if place != _place() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _place() -> str:
    known = [platform.node()]
    for path in IDENTITIES:
        try:
            known.append(os.readlink(path) if path.is_symlink() else path.read_text())
        except OSError:
            continue
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:8]
