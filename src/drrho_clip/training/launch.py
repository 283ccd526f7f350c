"""Starts the processes of a run on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drrho_clip.errors import DrrhoError, TrainingError
from drrho_clip.training.failure import CONSEQUENCES, parse_failure

MODULE = "drrho_clip.training"
TORCHRUN = "drrho_clip.training.torchrun"
ON_CPUS = {
    # glibc: keep what a step frees for the next one. Pages given back and faulted in again cost 3 to 10% of a step.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    # GNU OpenMP: threads that wait for each other spin for some 50 microseconds before they sleep, not for milliseconds. Beside
    # another busy process a step took five times as long, since one thread spins while the other waits for a core; alone it now
    # takes 3% longer.
    "GOMP_SPINCOUNT": "10000",
}
"""Environment of the training processes, where the user's own says nothing else."""


def run_locally(arguments: list[str], processes: int = 1) -> None:
    """Run `python -m drrho_clip.training` with these arguments: one plain process, or several under torchrun.

    SIGTERM and SIGINT are handed on. Raises the DrrhoError that stopped the training, or TrainingError with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="drrho-") as folder:
        failure = Path(folder) / "failure.json"
        command = [*_launcher(processes), MODULE, *arguments, "--failure-file", str(failure)]
        if processes > 1:
            # torchrun reports a failed child at length on its own stderr: the children log to stdout, which becomes our stderr
            command.append("--log-to-stdout")
        with open(Path(folder) / "launcher.log", "w+") as noise:
            code = _wait(
                subprocess.Popen(command, stdout=sys.stderr, stderr=noise if processes > 1 else None, env=_environment(processes))
            )
            noise.seek(0)
            tail = noise.read().strip().splitlines()[-20:]
        if code != 0:
            raise _reason(failure, code, tail)


def cpu_environment(cpus: int, processes: int) -> dict[str, str]:
    """Environment of `processes` training processes that share `cpus`."""
    return {"OMP_NUM_THREADS": str(max(1, cpus // processes)), **ON_CPUS}


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", "--"]  # or it takes our --run for an abbreviation of its --run-path


def _environment(processes: int) -> dict[str, str]:
    return {**cpu_environment(os.cpu_count() or 1, processes), **os.environ}


def _wait(process: subprocess.Popen[bytes]) -> int:
    with _forwarded(process):
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


@contextmanager
def _forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand SIGTERM on to the child while it runs, where this is the main thread and may do so."""
    try:
        previous = signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _reason(failure: Path, code: int, tail: list[str]) -> DrrhoError:
    stored = parse_failure(failure.read_text()) if failure.exists() else None
    if stored is not None and stored["kind"] not in CONSEQUENCES:
        return TrainingError(stored["what"], where=stored["where"], fix=stored["fix"])
    if code < 0:
        name = signal.Signals(-code).name
        hint = " The kernel kills processes that need more memory than there is." if name == "SIGKILL" else ""
        return TrainingError(f"Training was ended by {name}.{hint}", fix="Start it again: it goes on from its newest checkpoint.")
    return TrainingError(f"Training failed with exit code {code}", where="\n".join(tail), fix="Its log above says more.")
