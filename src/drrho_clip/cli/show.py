"""What a command prints when it is done: a small table on a terminal, one line of JSON elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def show(what: str, facts: Mapping[str, Any]) -> None:
    """Print the result of a step to stdout."""
    if not sys.stdout.isatty():
        print(json.dumps({"result": what, **facts}, default=str), flush=True)
        return
    width = max((len(name) for name in facts), default=0)
    print(what)
    for name, value in facts.items():
        print(f"  {name.replace('_', ' '):<{width}}  {readable(value)}")


def readable(value: Any) -> str:
    """A value as a person reads it: thousands separated, four significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {readable(item)}" for name, item in value.items()) or "-"
    return str(value)
