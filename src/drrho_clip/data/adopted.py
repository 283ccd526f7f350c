"""Samples of adopted tars, whose members have the names and texts that others gave them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from drrho_clip.data.config import IngestConfig
from drrho_clip.data.prepare import printable
from drrho_clip.data.sources.pairing import kind_of
from drrho_clip.data.sources.texts import Part, texts_of
from drrho_clip.data.tar_index import Member

if TYPE_CHECKING:
    from drrho_clip.data.manifest import Manifest

_RULES = ("caption_field", "class_field")


def rules_of(manifest: Manifest) -> IngestConfig:
    """Return those of the settings that made a dataset which say how the texts of its samples are read."""
    return IngestConfig.parse({name: manifest.source[name] for name in _RULES if name in manifest.source})


def sample_of(rules: IngestConfig, key: str, members: Sequence[tuple[Member, bytes]]) -> tuple[bytes, str, dict[str, Any]]:
    """Return (image, caption, metadata) of the sample `key` out of its members; raise BadRow, ValueError for other members."""
    images = [(member, data) for member, data in members if kind_of(member.name) == "image"]
    if len(images) != 1 or not images[0][0].name.removeprefix("./").startswith(key):
        raise ValueError(f"{', '.join(member.name for member, _ in members)} are not its members")
    parts: dict[str, Part] = {kind_of(member.name): (member.name, partial(bytes, data)) for member, data in members}
    texts = texts_of(rules, key, parts)
    meta: dict[str, Any] = texts.extra | {"key": key, "exchanged": False}
    if texts.class_name is not None:
        meta["class"] = printable(texts.class_name)
    return images[0][1], texts.caption, meta
