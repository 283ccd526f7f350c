"""What the texts of a sample in a tar say: caption, class and split. Copied and adopted tars are read by the same rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.sources.captions import REPAIRED, BadRow, clean_caption, decode_text, json_caption
from drrho_clip.data.sources.fields import class_of, parse_fields, split_of, text_or_none, wants_fields

Part = tuple[str, Callable[[], bytes]]  # a member's name, and what reads it


@dataclass(frozen=True)
class Texts:
    """Caption, class (None = none), split (None = none is given) and notes; `used`: the kinds of members that they are from."""

    caption: str
    class_name: str | None
    split: str | None
    extra: dict[str, Any]
    used: tuple[str, ...]


def texts_of(config: IngestConfig, key: str, parts: Mapping[str, Part]) -> Texts:
    """Read the parts ("text", "fields" and "label" of `pairing`, as far as there are) that the settings ask for; raise BadRow."""
    used: list[str] = []

    def read(kind: str) -> tuple[str, bool]:
        used.append(kind)
        return decode_text(parts[kind][1]())

    fields: dict[str, Any] = {}
    repaired = False
    if "fields" in parts and (wants_fields(config) or "text" not in parts):
        text, repaired = read("fields")
        fields = parse_fields(text, parts["fields"][0])
    if "text" in parts and not config.caption_field:
        text, repaired = read("text")
        caption = clean_caption(text)
    elif "fields" in parts:
        caption = json_caption(fields, config.caption_field)
    else:
        raise BadRow("no_caption", f"{key}: no .json that could hold {config.caption_field}")
    class_name = class_of(config.class_field, fields, key)
    if class_name is None and "label" in parts:
        class_name = text_or_none(read("label")[0])
    return Texts(caption, class_name, split_of(config.split_field, fields), dict(REPAIRED) if repaired else {}, tuple(used))
