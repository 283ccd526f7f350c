"""A run seen from outside while it trains: how far it is, from its records in the store or from Prometheus."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic, sleep
from typing import Any, Literal, Protocol

from drrho_clip.errors import ConfigError, DataError, DrrhoError, ObjectMissing, StorageError, nearest
from drrho_clip.observe import METRICS
from drrho_clip.observe.metrics import PREFIX
from drrho_clip.storage import Store, layout
from drrho_clip.training.step import find_summary, read_config

TAIL_BYTES = 65_536  # of metrics.jsonl: some hundred records
AVERAGED = 20  # records that the time left is estimated from
SECONDS = 10.0

State = Literal["starting", "running", "finished", "failed", "silent"]


@dataclass(frozen=True)
class Seen:
    """A run at one moment: its state, its newest record, the steps it will have, the seconds of a step, and why it failed."""

    run: str
    state: State
    record: Mapping[str, float]
    steps: int
    step_seconds: float = 0.0
    detail: str = ""

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record.get("step", 0))

    def facts(self) -> dict[str, Any]:
        """What is shown, by name; variances are means over both sides, seconds_left is 0 at the end."""
        variances = {
            of: self._mean(f"pairwise_loss_variance.{side}.{of}" for side in ("image", "text")) for of in ("target", "rho")
        }
        facts = {
            "run": self.run,
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "loss": self.record.get("loss"),
            "variance_of_loss": variances["target"],
            "variance_of_rho": variances["rho"],
            "samples_per_second": self.record.get("samples_per_second"),
            "seconds_left": round((self.steps - self.step) * self.step_seconds, 1) if self.step_seconds else None,
            "detail": self.detail,
        }
        return {name: value for name, value in facts.items() if value not in (None, "")}

    def _mean(self, keys: Iterator[str]) -> float | None:
        values = [self.record[key] for key in keys if key in self.record]
        return sum(values) / len(values) if values else None


class Source(Protocol):
    """Where a run is looked at."""

    def look(self) -> Seen:
        """How far the run is. DataError where there is no such run."""


class InStore:
    """A run's records in the store, which training writes at least every half minute."""

    def __init__(self, store: Store, run: str) -> None:
        """DataError names the nearest runs where there is none called `run`."""
        self._store, self._run = store, run
        try:
            self._steps = read_config(run, store).steps
        except ObjectMissing:
            known = {info.key.split("/")[1] for info in store.list("runs/")}
            fix = nearest(run, known) if known else "There is no run yet: train one first."
            raise DataError(f"There is no run '{run}'", where=store.uri_of(layout.run(run)), fix=fix) from None

    def look(self) -> Seen:
        """See Source."""
        finished = find_summary(self._run, self._store) is not None  # asked first: its last record is then there, too
        failure = None if finished else self._failure()
        records = self._tail()
        last: Mapping[str, float] = records[-1] if records else {}
        state, detail = _state(last, finished=finished, failure=failure)
        seconds = [record["step_seconds"] for record in records[-AVERAGED:] if "step_seconds" in record]
        return Seen(self._run, state, last, self._steps, sum(seconds) / len(seconds) if seconds else 0.0, detail)

    def _tail(self) -> Sequence[Mapping[str, float]]:
        """The newest records; what is replaced while it is read is read again the next time."""
        key = layout.run_metrics(self._run)
        info = self._store.head(key)
        if info is None or info.size == 0:
            return ()
        start = max(0, info.size - TAIL_BYTES)
        try:
            lines = self._store.read_range(key, start, info.size - start).decode(errors="ignore").splitlines()
        except StorageError:
            if self._store.head(key) is None:
                return ()
            lines = self._store.read(key).decode().splitlines()
            start = 0
        return [json.loads(line) for line in (lines[1:] if start else lines)]

    def _failure(self) -> str | None:
        if self._store.head(layout.run_failure(self._run)) is None:
            return None
        try:
            reason = json.loads(self._store.read(layout.run_failure(self._run)))
        except ObjectMissing:  # another attempt has just begun
            return None
        return " ".join(part for part in (reason["what"] + ".", reason["fix"]) if part)


class InPrometheus:
    """A run's series in a Prometheus; whether one that is gone has failed cannot be told from them."""

    def __init__(self, url: str, run: str) -> None:
        """DataError names the nearest runs where there is none called `run`; ConfigError where no Prometheus answers."""
        self._url, self._run = url.rstrip("/"), run
        self._last: Seen | None = None
        known = self._ask("label/run/values", {"match[]": PREFIX + "step"})
        if run not in known:
            fix = nearest(run, known) if known else "It has scraped no run yet: see docs/monitoring.md."
            raise DataError(f"Prometheus knows no run '{run}'", where=self._url, fix=fix)

    def look(self) -> Seen:
        """See Source."""
        found = self._ask("query", {"query": f'{{__name__=~"{PREFIX}.+",run={json.dumps(self._run)}}}'})["result"]
        record: dict[str, float] = {}
        for series in found:
            key = _record_key(series["metric"])
            record[key] = max(float(series["value"][1]), record.get(key, float("-inf")))
        if not record.get("step"):
            if self._last is None:
                return Seen(self._run, "starting", {}, int(record.get("steps", 0)))
            ended = self._last.step >= self._last.steps > 0
            return Seen(self._run, "finished" if ended else "silent", self._last.record, self._last.steps)
        state, detail = _state(record, finished=False, failure=None)
        self._last = Seen(self._run, state, record, int(record.get("steps", 0)), record.get("step_seconds", 0.0), detail)
        return self._last

    def _ask(self, path: str, query: Mapping[str, str]) -> Any:
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=SECONDS) as answer:
                return json.load(answer)["data"]
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise ConfigError(
                f"Prometheus does not answer: {error}", where=self._url, fix="Check the address, e.g. http://localhost:9090."
            ) from None


def _record_key(labels: Mapping[str, str]) -> str:
    name = labels["__name__"].removeprefix(PREFIX)
    own = next((tuple(metric.labels) for metric in METRICS if metric.name == name), ())
    return ".".join((name, *(labels.get(label, "") for label in own)))


def _state(last: Mapping[str, float], *, finished: bool, failure: str | None) -> tuple[State, str]:
    if finished:
        return "finished", ""
    if failure is not None:
        return "failed", failure
    if last.get("nonfinite_steps_total", 0) > 0:
        return "failed", "The loss or its gradient was not finite."
    return ("running" if last else "starting"), ""


def follow(source: Source, *, every: float, patience: float) -> Iterator[Seen]:
    """Yield what is seen every `every` seconds until the run has ended, or `patience` seconds have brought nothing new (silent).

    What cannot be looked at for a while is looked at again, within the same patience.
    """
    changed, last = monotonic(), None
    while True:
        try:
            seen = source.look()
        except DrrhoError:
            if last is None or monotonic() - changed >= patience:
                raise
            sleep(every)
            continue
        if seen.record != last:
            changed, last = monotonic(), seen.record
        if seen.state in ("finished", "failed"):
            yield seen
            return
        if monotonic() - changed >= patience:
            detail = f"Nothing new for {patience:.0f} s: whether it still runs cannot be told from here."
            yield Seen(seen.run, "silent", seen.record, seen.steps, seen.step_seconds, detail)
            return
        yield seen
        sleep(every)
