"""What a terminal shows: bars and log lines, each on lines of their own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

SCRIPT = """
import fcntl, struct, sys, termios
from drrho_clip.observe import configure_logs, get_logger, progress

fcntl.ioctl(sys.stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
configure_logs()
for number in progress(range(3), what="counting", total=3):
    get_logger().info("counted", number=number)
"""


def test_log_lines_stand_above_the_bar():
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=slave) as process:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 4096):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
    os.close(master)
    assert process.returncode == 0, shown
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in shown.decode().split("\n")]
    assert [("counted" in line, "counting" in line) for line in lines[:3]] == [(True, False)] * 3
    assert "counting: 100%" in shown.decode()
