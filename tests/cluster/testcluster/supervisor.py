"""Keeps one cluster: starts its process 1 and, whatever ends it, removes what would be left of it.

    python -m testcluster.supervisor NAME PROGRAMS [--until-input-ends]

It ends the cluster on SIGTERM and, with --until-input-ends, when its standard input ends: the runner of the tests holds the
other end, so that the cluster goes even if the runner is killed. Killed itself, it takes process 1 along.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

from . import init, system
from .places import Places, places


def main(name: str, programs: str, *options: str) -> None:
    """Run the cluster `name` until it is to end, then clean up."""
    here = places(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (here.run / "supervisor.pid").write_text(str(os.getpid()))
    system.make_cgroups(here.cgroup)
    system.unshare(system.NEW_PID)
    child = os.fork()
    if not child:
        _be_process_one(here, Path(programs))
    (here.run / "init.pid").write_text(str(child))
    try:
        _wait(child, "--until-input-ends" in options)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _clean(here, child)


def _be_process_one(here: Places, programs: Path) -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(init.run(here, programs))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _wait(child: int, until_input_ends: bool) -> None:
    """Return when the child has ended or, if so wanted, the input has."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if not until_input_ends:
            time.sleep(0.2)
        elif select.select([0], [], [], 0.2)[0] and not os.read(0, 1):
            return


def _clean(here: Places, child: int) -> None:
    """End every process of the cluster and remove its control groups and files; the logs stay until the next start."""
    os.kill(child, signal.SIGKILL)  # the kernel kills the rest of its process namespace
    os.waitpid(child, 0)
    system.remove_cgroups(here.cgroup)
    for path in here.run.iterdir():
        if path.is_dir() and path != here.logs:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
