"""What a run recorded, less what differs from one machine and minute to the next."""

from __future__ import annotations

import json

from drrho_clip.storage import Store, layout

TIMED = {"time", "samples_per_second", "step_seconds", "data_wait_seconds"}


def untimed_records(store: Store, run: str) -> list[dict[str, float]]:
    """The records of metrics.jsonl without times and speeds: equal for two runs that did the same."""
    lines = store.read(layout.run_metrics(run)).decode().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]
