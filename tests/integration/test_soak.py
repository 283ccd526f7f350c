"""A short soak: what is killed at random ends where undisturbed work ends. docs/reliability.md has the long one."""

from __future__ import annotations

import uuid

import pytest
from soak import STEPS, Soak

from drrho_pipelines.seaweed import SeaweedServer


@pytest.mark.timeout(900)
def test_what_is_killed_again_and_again_ends_as_if_nothing_had_happened(s3_environment: SeaweedServer):
    soak = Soak(f"{s3_environment.store_uri}/{uuid.uuid4().hex}", seed=1, kills_a_step=2)
    soak.run(kills=4)
    assert set(soak.kills) == set(STEPS)
