"""The step `ingest`, whose groups share the rows of a source."""

from __future__ import annotations

from drrho_components.ingest import ingest
from drrho_components.split import split
from drrho_pipelines.shared import Shared
from drrho_pipelines.step import HOUR, Step

INGEST = Step("data", ingest, linked=("group",), cached=False)  # the data may have changed under the same name
SPLIT = Step("split", split, linked=("groups",), resources=(), seconds=HOUR)
GROUPS = Shared(INGEST, SPLIT, number="group", count="groups")
