"""Which members of a tar belong to one sample.

A member's kind is told by one known ending at the end of its name; what stands before it, folders and dots included, is the
sample's key. So `cat v2.0.jpg` goes with `cat v2.0.txt`, and `d.v1/1.jpg` with `d.v1/1.txt`, wherever in the tar they are. A
member of unknown ending is taken as the image if its bytes are one and the key has no other. What stays alone is tried once more
without one word before the ending (`x.input.jpg` with `x.outputs.txt`), if only one image and one text can be meant. All else is
rejected, never guessed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from drrho_clip.data.sources.base import Rejected
from drrho_clip.data.sources.fields import IMAGE_ENDINGS, ending_of, wanted
from drrho_clip.data.sources.tars import Member
from drrho_clip.errors import DataError

TEXT_ENDINGS = (".txt", ".text", ".caption")
_KINDS = {
    **dict.fromkeys(IMAGE_ENDINGS, "image"),
    **dict.fromkeys(TEXT_ENDINGS, "text"),
    ".json": "fields",
    ".cls": "label",
}


@dataclass(frozen=True)
class Pair:
    """An image and its caption: from `text` or, where that is None, from the object in `fields`; `label` is a .cls file."""

    key: str
    image: Member
    text: Member | None
    fields: Member | None
    label: Member | None


@dataclass
class Pairing:
    """The pairs of one tar in the order of their images, what gave none, and how many members have which ending."""

    pairs: list[Pair] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)


def kind_of(name: str) -> str:
    """Return the kind of a member that belongs to a pair: "text", "fields", "label", else "image"."""
    return _KINDS.get(ending_of(name), "image")


Group = dict[str, list[Member]]  # members of one key by kind


def pair_members(members: Iterable[Member], where: str, is_image: Callable[[Member], bool]) -> Pairing:
    """Pair the members of the tar `where`; `is_image` looks into a member. Raises DataError where a name comes twice."""
    result = Pairing()
    lonely: dict[str, Group] = {}
    for key, group in _groups(members, where, is_image, result.endings).items():
        images = group["image"] or group["unclear"]
        if len(images) > 1 or len(group["text"]) > 1:
            names = ", ".join(member.name for member in (images if len(images) > 1 else group["text"]))
            result.rejected.append(Rejected(key, "not_paired", f"more than one can be meant: {names}"))
        elif images and (group["text"] or group["fields"]):
            result.pairs.append(_pair(key, group))
        elif images or group["text"] or group["fields"]:
            lonely[key] = group
    _pair_compounds(lonely, result)
    result.pairs.sort(key=lambda pair: pair.image.offset)
    return result


def _groups(members: Iterable[Member], where: str, is_image: Callable[[Member], bool], endings: Counter[str]) -> dict[str, Group]:
    groups: dict[str, Group] = defaultdict(lambda: defaultdict(list))
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise DataError(
                f"The member '{member.name}' comes twice", where=where, fix="Remove one of them, or write the tar again."
            )
        seen.add(member.name)
        name = member.name.removeprefix("./")
        if not all(wanted(part) for part in name.split("/")):
            continue
        ending = ending_of(name)
        endings[_shown_ending(name)] += 1
        kind = _KINDS.get(ending) or ("unclear" if is_image(member) else None)
        if kind:
            groups[name[: len(name) - len(ending)]][kind].append(member)
    return groups


def _pair(key: str, group: Group) -> Pair:
    first = {kind: members[0] for kind, members in group.items() if members}
    image = first.get("image") or first["unclear"]
    return Pair(key, image, first.get("text"), first.get("fields"), first.get("label"))


def _pair_compounds(lonely: dict[str, Group], result: Pairing) -> None:
    """Pair `x.input.jpg` with `x.outputs.txt` where all lonely images share one such word, all lonely texts another."""
    taken = {pair.key for pair in result.pairs}
    roots: dict[str, list[str]] = defaultdict(list)
    words: dict[str, set[str]] = {"image": set(), "text": set(), "fields": set()}
    for key, group in lonely.items():
        root, word = _split_word(key)
        roots[root].append(key)
        for kind in words:
            if word and group[kind]:
                words[kind].add(word)
    one_word_each = all(len(found) <= 1 for found in words.values())
    for root, keys in roots.items():
        merged: Group = {kind: [m for key in keys for m in lonely[key][kind]] for kind in ("image", "unclear", *words, "label")}
        counts = [len(merged["image"] or merged["unclear"]), len(merged["text"]), len(merged["fields"])]
        if len(keys) > 1 and one_word_each and root not in taken and counts in ([1, 1, 0], [1, 1, 1], [1, 0, 1]):
            result.pairs.append(_pair(root, merged))
        else:
            result.rejected.extend(_alone(key, lonely[key], len(keys) > 1) for key in keys)


def _split_word(key: str) -> tuple[str, str]:
    folder, slash, name = key.rpartition("/")
    root, dot, word = name.rpartition(".")
    return (folder + slash + root, word) if dot and root and word.isidentifier() else (key, "")


def _alone(key: str, group: Group, has_neighbours: bool) -> Rejected:
    members = [member.name for kind in ("image", "unclear", "text", "fields") for member in group[kind]]
    if has_neighbours:
        return Rejected(key, "not_paired", f"{members[0]}: more than one partner can be meant")
    if group["image"] or group["unclear"]:
        return Rejected(key, "no_caption", f"{members[0]}: no {' or '.join((*TEXT_ENDINGS, '.json'))} of this name")
    return Rejected(key, "no_image", f"{members[0]}: no image of this name")


def _shown_ending(name: str) -> str:
    ending = ending_of(name)
    _, word = _split_word(name[: len(name) - len(ending)])
    return (f".{word}" if word else "") + (ending or "(none)")
