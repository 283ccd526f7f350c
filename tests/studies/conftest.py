from __future__ import annotations

from collections.abc import Callable

import pytest
from study_helpers import Launcher, planned

from drrho_clip.studies.plan import Plan


@pytest.fixture
def launcher() -> Launcher:
    return Launcher()


@pytest.fixture
def plan_in() -> Callable[..., Plan]:
    return planned
