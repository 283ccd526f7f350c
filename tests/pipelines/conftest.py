from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_of_this_test_only() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # commands send their logs to the stderr of this one test
