"""The contract of a launcher."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Starts a training command on the processes that its config asks for, and waits for its end."""

    def run(self, command: list[str]) -> None:
        """Run `python -m drrho_clip.training` with the arguments `command` on every process; return on success.

        Raises the DrrhoError that stopped the training, or says why there was none, where it did not end well.
        """
