"""Foreign text (captions, names, settings) made fit for a page; escaping is the template's part."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

SHOWN = 240  # characters of a caption that are shown
# Embeddings, overrides and isolates reach beyond their text; the plain marks (LRM, RLM), which right-to-left text needs, do not.
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def readable(text: str) -> str:
    """Foreign text fit for one line: white space folded; controls, lone surrogates and bidirectional overrides spelled out."""
    return " ".join("".join(_spelled(text)).split())


def _spelled(text: str) -> Iterator[str]:
    for character in text:
        hidden = unicodedata.category(character) in ("Cc", "Cs") and not character.isspace()
        yield f"[U+{ord(character):04X}]" if hidden or character in _BIDI_CONTROLS else character


def shorten(text: str, limit: int = SHOWN) -> str:
    """The first `limit` characters, with an ellipsis where there are more."""
    return text if len(text) <= limit else text[:limit].rstrip() + "…"


def as_text(value: Any) -> str:
    """A setting as people write it: numbers short and grouped, yes and no, nothing for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else readable(str(value))


def duration(seconds: float) -> str:
    """A length of time as 1 h 05 min, 2 min 34 s or 7 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
