"""A terminal for a process to write to."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence
from typing import Literal


def shown_by(command: Sequence[str], stream: Literal["stdout", "stderr"]) -> tuple[int, str]:
    """Run `command` with a terminal as one of its streams: its exit code and what the terminal got."""
    master, slave = pty.openpty()
    shown = b""
    with subprocess.Popen(command, **{stream: slave}) as process:
        os.close(slave)
        try:
            while part := os.read(master, 4096):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
    os.close(master)
    return process.returncode, shown.decode()
