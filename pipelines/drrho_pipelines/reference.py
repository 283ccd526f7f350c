"""The step `reference`, whose workers share the shards of a dataset."""

from __future__ import annotations

from drrho_components.plan import plan
from drrho_components.reference import reference
from drrho_pipelines.shared import Shared
from drrho_pipelines.step import GPU, HOUR, Step

REFERENCE = Step("reference", reference, linked=("worker",), resources=GPU, cached=False)  # the model may be a file
PLAN = Step("plan", plan, linked=("workers",), resources=(), cached=False, seconds=HOUR)
WORKERS = Shared(REFERENCE, PLAN, number="worker", count="workers")
