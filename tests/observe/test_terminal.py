"""What a terminal shows: bars and log lines, each on lines of their own."""

from __future__ import annotations

import sys

from terminal_helpers import shown_by

SCRIPT = """
import fcntl, struct, sys, termios
from drrho_clip.observe import configure_logs, get_logger, progress

fcntl.ioctl(sys.stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
configure_logs()
for number in progress(range(3), what="counting", total=3):
    get_logger().info("counted", number=number)
"""


def test_log_lines_stand_above_the_bar():
    code, shown = shown_by([sys.executable, "-c", SCRIPT], "stderr")
    assert code == 0, shown
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in shown.split("\n")]
    assert [("counted" in line, "counting" in line) for line in lines[:3]] == [(True, False)] * 3
    assert "counting: 100%" in shown
