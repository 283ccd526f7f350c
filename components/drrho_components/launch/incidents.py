"""Failures that belong together, their first cause, and how many of them a run may have."""

from __future__ import annotations

from drrho_clip.errors import DrrhoError, LaunchError, TrainingError
from drrho_clip.observe import get_logger
from drrho_clip.training.failure import CONSEQUENCES
from drrho_components.launch.states import OWN_ERRORS, Failure

SETTLED_SECONDS = 6.0  # from the first failure until its consequences have shown themselves


class Incidents:
    """Collects failures until they have settled; then the first cause is told, and training may go on or not.

    `echo_seconds`: how long after one incident processes that only lost their peers may still belong to it.
    """

    def __init__(self, restarts: int, echo_seconds: float) -> None:
        self.restarts, self.echo_seconds = restarts, echo_seconds
        self.used = 0
        self._open: list[Failure] = []
        self._since = 0.0
        self._last: tuple[float, Failure] | None = None

    def add(self, failure: Failure, now: float) -> None:
        """Take one more failure."""
        if not self._open:
            self._since = now
        self._open.append(failure)

    def forget(self) -> None:
        """What failed was meant to end: the job was suspended."""
        self._open = []

    def settled(self, now: float) -> bool:
        """Whether there is something to judge."""
        return bool(self._open) and now - self._since >= SETTLED_SECONDS

    def judge(self, now: float, otherwise: str) -> None:
        """Say what the first cause was; raise it where it is final or the budget is used up.

        `otherwise`: what is known where no pod's failure was seen.
        """
        first = (
            min(self._open, key=lambda failure: failure.order) if self._open else Failure(pod="", key="", kind="", what=otherwise)
        )
        self._open = []
        echo = first.kind in (*CONSEQUENCES, "") and self._last is not None and now - self._last[0] < self.echo_seconds
        if echo and self._last is not None:
            first = self._last[1]
        else:
            self.used += 1
        self._last = (now, first)
        if first.final or self.used > self.restarts:
            raise self._error(first)
        if not echo:
            get_logger().warning("training_restarts", reason=first.what, kind=first.kind, used=self.used, of=self.restarts)

    def _error(self, first: Failure) -> DrrhoError:
        tried = f" Training went on {self.restarts} times before." if self.restarts and not first.final else ""
        if first.kind in (*OWN_ERRORS, "StorageError"):
            return TrainingError(first.what, fix=first.fix + tried)
        return LaunchError(first.what, where=first.kind, fix=(first.fix or "Its log says more.") + tried)
