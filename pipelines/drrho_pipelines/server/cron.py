"""Cron expressions as a Kubeflow Pipelines server reads them: six fields, the first of them seconds, in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from drrho_clip.errors import ConfigError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = {name: number for number, name in enumerate(_MONTHS, start=1)}
WEEKDAYS = {name: number for number, name in enumerate(_WEEKDAYS)}
PART = re.compile(r"(?:(?P<any>[*?])|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)
YEARS = 8
"""How far ahead a day is looked for: the 29th of February may be eight years away."""


@dataclass(frozen=True)
class Field:
    """One field of an expression: its name, its smallest and largest number, and the words that stand for numbers."""

    name: str
    low: int
    high: int
    words: Mapping[str, int]


FIELDS = (
    Field("second", 0, 59, {}),
    Field("minute", 0, 59, {}),
    Field("hour", 0, 23, {}),
    Field("day of the month", 1, 31, {}),
    Field("month", 1, 12, MONTHS),
    Field("day of the week", 0, 6, WEEKDAYS),
)


@dataclass(frozen=True)
class Cron:
    """An expression of six fields: `text` as the server gets it, the numbers of each field, and which fields are a star."""

    text: str
    numbers: tuple[frozenset[int], ...]
    stars: tuple[bool, ...]

    def next_times(self, after: datetime, count: int = 3) -> list[datetime]:
        """The next `count` times in UTC after a time; fewer where there are none within eight years."""
        return list(islice(self._times(after.astimezone(UTC)), count))

    def _times(self, after: datetime) -> Iterator[datetime]:
        seconds, minutes, hours = (sorted(numbers) for numbers in self.numbers[:3])
        midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
        for day in (midnight + timedelta(days=number) for number in range(366 * YEARS)):
            if self._on(day):
                times = (day.replace(hour=h, minute=m, second=s) for h in hours for m in minutes for s in seconds)
                yield from (time for time in times if time > after)

    def _on(self, day: datetime) -> bool:
        days, months, weekdays = self.numbers[3:]
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        either = of_month and of_week if self.stars[3] or self.stars[5] else of_month or of_week
        return day.month in months and either


def parse_cron(text: str) -> Cron:
    """Read an expression; five fields get a second of 0. ConfigError says which field is wrong, or that it never comes."""
    fields = text.split()
    if len(fields) not in (5, 6):
        raise _refused(text, f"has {len(fields)} field{'s' * (len(fields) != 1)}")
    six = ["0", *fields] if len(fields) == 5 else fields
    parsed = [_numbers(text, part, field) for part, field in zip(six, FIELDS, strict=True)]
    cron = Cron(" ".join(six), tuple(numbers for numbers, _ in parsed), tuple(star for _, star in parsed))
    if not cron.next_times(datetime.now(UTC), 1):
        raise _refused(text, "never comes")
    return cron


def _numbers(text: str, field_text: str, field: Field) -> tuple[frozenset[int], bool]:
    found: set[int] = set()
    star = False
    for part in field_text.split(","):
        match = PART.fullmatch(part)
        if match is None:
            raise _refused(text, f"has '{part}' as {field.name}")
        step = int(match["step"] or 1)
        low, high = (field.low, field.high) if match["any"] else _range(text, match, field)
        if step < 1 or low > high:
            raise _refused(text, f"has '{part}' as {field.name}, which means nothing")
        star = star or match["any"] is not None
        found.update(range(low, high + 1, step))
    return frozenset(found), star


def _range(text: str, match: re.Match[str], field: Field) -> tuple[int, int]:
    low = _number(text, match["first"], field)
    if match["last"]:
        return low, _number(text, match["last"], field)
    return low, field.high if match["step"] else low


def _number(text: str, word: str, field: Field) -> int:
    number = field.words.get(word.lower(), int(word) if word.isdecimal() else -1)
    if not field.low <= number <= field.high:
        sunday = ", and Sunday is 0" if field.words is WEEKDAYS else ""
        raise _refused(text, f"has '{word}' as {field.name}, which goes from {field.low} to {field.high}{sunday}")
    return number


def _refused(text: str, problem: str) -> ConfigError:
    return ConfigError(
        f"The cron expression '{text}' {problem}",
        fix="Write five fields (minute, hour, day of the month, month, day of the week), or six with the second first: "
        "'0 3 * * *' is every day at 03:00 UTC.",
    )
