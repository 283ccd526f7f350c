"""The record of a run: one JSON object per logged step, kept in the store as metrics.jsonl."""

from __future__ import annotations

import json
import time
from threading import Thread

from drrho_clip.errors import StorageError
from drrho_clip.observe import MetricSet, get_logger
from drrho_clip.storage import Store, layout

EVERY_SECONDS = 30.0
SHARE = 0.1
"""Of the time, at most, that goes into writing beside the training: a slow store is asked less often."""


class History:
    """Appends records, shows them as metrics and logs, and keeps the whole of them in the store.

    They are written on `flush` and, beside the training, at most `every` seconds after they were added, for whoever watches. What
    was written since the last checkpoint is forgotten by `resume`, so that a killed run ends as an undisturbed one.
    """

    def __init__(self, store: Store, run: str, metrics: MetricSet, *, every: float = EVERY_SECONDS) -> None:
        self.store, self.run, self.metrics = store, run, metrics
        self.records: list[dict[str, float]] = []
        self._lines: list[str] = []
        self._every, self._due = every, 0.0  # the first record is shown at once
        self._written = 0
        self._writer: Thread | None = None

    def resume(self, step: int) -> None:
        """Take over what an earlier attempt recorded up to `step`; what it did after its last checkpoint is done again."""
        if self.store.head(layout.run_metrics(self.run)) is None:
            return
        lines = self.store.read(layout.run_metrics(self.run)).decode().splitlines()
        self.records = [record for record in map(json.loads, lines) if record["step"] <= step]
        self._lines = [json.dumps(record) + "\n" for record in self.records]
        self._written = len(self._lines)
        if self.records:
            self.metrics.update(self.records[-1])

    def add(self, record: dict[str, float]) -> None:
        """Add one record; its keys are the record keys of observe.metrics."""
        unknown = [key for key in record if not self.metrics.known(key)]
        assert not unknown, f"not declared in observe.metrics: {unknown}"
        self.metrics.update(record)
        self.records.append({**record, "time": time.time()})
        self._lines.append(json.dumps(self.records[-1]) + "\n")
        shown = ("step", "loss", "samples_per_second", "temperature", "learning_rate")
        get_logger().info("step", **{key: _rounded(record[key]) for key in shown if key in record})
        if time.monotonic() >= self._due and not (self._writer and self._writer.is_alive()):
            self._writer = Thread(target=self._write_beside, args=("".join(self._lines), len(self._lines)), daemon=True)
            self._writer.start()

    def last(self, key: str, share: float = 0.1) -> float | None:
        """Mean of a key over the last `share` of the records that have it."""
        values = [record[key] for record in self.records if key in record]
        tail = values[-max(1, int(len(values) * share)) :]
        return sum(tail) / len(tail) if tail else None

    def flush(self) -> None:
        """Write metrics.jsonl now, after what is being written."""
        self._wait()
        self._write("".join(self._lines), len(self._lines))

    def close(self) -> None:
        """Write what is not written yet, for whoever looks why the run has stopped; that this fails is only logged."""
        self._wait()
        if self._written < len(self._lines):
            self._write_beside("".join(self._lines), len(self._lines))

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, text: str, count: int) -> None:
        started = time.monotonic()
        self.store.write(layout.run_metrics(self.run), text.encode())
        ended = time.monotonic()
        self._written, self._due = count, ended + max(self._every, (ended - started) / SHARE)

    def _write_beside(self, text: str, count: int) -> None:
        try:
            self._write(text, count)
        except StorageError as error:  # the next checkpoint says so, if it lasts
            self._due = time.monotonic() + self._every
            get_logger().warning("metrics_not_written", reason=str(error))


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")
