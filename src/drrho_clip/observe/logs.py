"""Structured logs: one JSON object a line on stderr, or short coloured lines on a terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any, TextIO, cast

import structlog
from tqdm import tqdm

LEVEL = "DRRHO_LOG_LEVEL"
"""Environment variable: level of the logs where none is given, for the processes that a command starts."""


def configure_logs(*, json: bool | None = None, level: str = "", **context: Any) -> None:
    """Send logs to stderr, as JSON unless stderr is a terminal; `context` (run, rank) is added to every line."""
    level = level or os.environ.get(LEVEL, "info")
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _AboveBars())),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**context)


class _AboveBars(io.TextIOBase):
    """stderr, with the progress bars that stand there moved below what is written."""

    def write(self, text: str) -> int:
        """Write `text`, whole lines."""
        with tqdm.external_write_mode(file=sys.stderr):
            return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


def get_logger() -> Any:
    """Return the logger: `get_logger().info("event_name", key=value)`."""
    return structlog.get_logger()
