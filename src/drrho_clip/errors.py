"""The one exception family of the project.

Every message says what was wrong, where (URI, key, row, field) and what to do about it, so that a command can print it alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DrrhoError(Exception):
    """A problem that the user can act on; commands print it without a traceback and exit with `exit_code`."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        sentence = what.rstrip(".") + (f" ({where})" if where else "")
        parts = [sentence if sentence.endswith("?") else sentence + "."]
        if fix:
            parts.append(fix)
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a process boundary (data workers, pools) with all three parts."""
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[DrrhoError], what: str, where: str, fix: str) -> DrrhoError:
    return kind(what, where=where, fix=fix)


class ConfigError(DrrhoError):
    """A setting is unknown, malformed or does not fit the others."""


class StorageError(DrrhoError):
    """The object store or the disk refused, failed or is not there."""


class ObjectMissing(StorageError):
    """No object under this key."""


class ObjectChanged(StorageError):
    """A conditional read or write met another version of the object."""


class DataError(DrrhoError):
    """A source, a dataset or its manifest cannot be used."""


class ModelError(DrrhoError):
    """A model, its weights or its preprocessing cannot be used."""


class TrainingError(DrrhoError):
    """Training cannot start or had to stop."""


class LaunchError(DrrhoError):
    """A training job could not be started or did not end well."""


class LeaseLost(DrrhoError):
    """Somebody else has taken over the work that this process held a lease for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the closest of `known`, or all of them where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(close) + "?"
    return "Known: " + ", ".join(names) + "."
