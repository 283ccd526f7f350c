"""What became of every row of a source, and when too many of them are bad."""

from __future__ import annotations

import math
import re
from collections import Counter

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.manifest import Failure
from drrho_clip.data.prepare import Prepared, printable
from drrho_clip.data.sources.base import CLASSES, LEFT_OUT, NOT_DOWNLOADED, Rejected, reason_class
from drrho_clip.errors import DataError

EXAMPLES = 20  # rows named per reason
EARLY = 200  # rows after which too many bad ones end the step at once,
CERTAINTY = 4.0  # if they are too many by this many standard deviations of a draw of so many rows


class Tally:
    """What became of every row: good, bad (by reason, with examples) or left out of the clean part."""

    def __init__(self, config: IngestConfig, known: int) -> None:
        """Start with the samples that are `known` to be good."""
        self._allowed = config.max_bad_fraction
        self.good, self.left_out = known, 0
        self.duplicates: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self.converted: dict[str, int] = {}
        self.classes: set[str] = set()

    @property
    def failed(self) -> dict[str, Failure]:
        """Rows without a sample, by reason, the most frequent first."""
        reasons = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return {reason: Failure(count=self._counts[reason], examples=tuple(self._examples[reason])) for reason in reasons}

    @property
    def skipped(self) -> Counter[str]:
        """Rows without a sample, by the record keys of their metric: all of them, most often 0."""
        counts = Counter({f"stage_samples_skipped.{name}": 0 for name in CLASSES})
        for reason, count in self._counts.items():
            counts[f"stage_samples_skipped.{reason_class(reason)}"] += count
        return counts

    def add(self, result: Prepared | Rejected) -> None:
        """Count one result; raise DataError as soon as it is clear that too many are bad."""
        if isinstance(result, Prepared):
            self.replay_good(result.image.mode, result.class_name, result.duplicate)
            return
        self.replay(result.key, result.reason, result.detail)
        if self._rows() >= EARLY:
            self._check_share(margin=CERTAINTY)

    def replay_good(self, mode: str, class_name: str | None, duplicate: str) -> None:
        """Count a sample by what is kept of it."""
        self.good += 1
        if mode not in ("RGB", "L"):
            self.converted[mode] = self.converted.get(mode, 0) + 1
        if class_name is not None:
            self.classes.add(class_name)
        if duplicate:
            self.duplicates[duplicate] = self.duplicates.get(duplicate, 0) + 1

    def replay(self, key: str, reason: str, detail: str) -> None:
        """Count a row without a sample, without a look at how many there are."""
        if reason == LEFT_OUT:
            self.left_out += 1
            return
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            # an object's address would make two manifests of the same data differ
            example = re.sub(r"0x[0-9a-f]{6,}", "0x...", f"{key}: {detail}")
            examples.append(printable(example)[:300])

    def check(self) -> None:
        """Raise DataError at the end: too many bad rows, or no sample at all."""
        if self.good == 0:
            raise DataError("No row of the source gave a sample" + self._reasons(), fix="Nothing was published.")
        self._check_share()

    def _check_share(self, margin: float = 0.0) -> None:
        rows = self._rows()
        bad = rows - self.good - self.left_out
        if bad > self._allowed * rows + margin * math.sqrt(rows * self._allowed * (1 - self._allowed)):
            raise DataError(
                f"{bad} of {rows} rows gave no sample, more than max_bad_fraction = {self._allowed:g} allows" + self._reasons(),
                fix="Repair or remove them, or raise max_bad_fraction; nothing was published.",
            )

    def _rows(self) -> int:
        bad = sum(count for reason, count in self._counts.items() if reason != NOT_DOWNLOADED)  # those were never in the source
        return self.good + self.left_out + bad

    def _reasons(self) -> str:
        parts = [f"{name} {failure.count} (such as {'; '.join(failure.examples[:2])})" for name, failure in self.failed.items()]
        return ": " + ", ".join(parts) if parts else ""
