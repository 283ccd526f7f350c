"""The record of a run: one JSON object per logged step, kept in the store as metrics.jsonl."""

from __future__ import annotations

import json
import time

from drrho_clip.observe import MetricSet, get_logger
from drrho_clip.storage import Store, layout


class History:
    """Appends records, shows them as metrics and logs, and puts the whole of them into the store on `flush`."""

    def __init__(self, store: Store, run: str, metrics: MetricSet) -> None:
        self.store, self.run, self.metrics = store, run, metrics
        self.records: list[dict[str, float]] = []

    def resume(self, step: int) -> None:
        """Take over what an earlier attempt recorded up to `step`; what it did after its last checkpoint is done again."""
        if self.store.head(layout.run_metrics(self.run)) is None:
            return
        lines = self.store.read(layout.run_metrics(self.run)).decode().splitlines()
        self.records = [record for record in map(json.loads, lines) if record["step"] <= step]
        if self.records:
            self.metrics.update(self.records[-1])

    def add(self, record: dict[str, float]) -> None:
        """Add one record; its keys are the record keys of observe.metrics."""
        unknown = [key for key in record if not self.metrics.known(key)]
        assert not unknown, f"not declared in observe.metrics: {unknown}"
        self.metrics.update(record)
        self.records.append({**record, "time": time.time()})
        shown = ("step", "loss", "samples_per_second", "temperature", "learning_rate")
        get_logger().info("step", **{key: _rounded(record[key]) for key in shown if key in record})

    def last(self, key: str, share: float = 0.1) -> float | None:
        """Mean of a key over the last `share` of the records that have it."""
        values = [record[key] for record in self.records if key in record]
        tail = values[-max(1, int(len(values) * share)) :]
        return sum(tail) / len(tail) if tail else None

    def flush(self) -> None:
        """Write metrics.jsonl."""
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        self.store.write(layout.run_metrics(self.run), text.encode())


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")
