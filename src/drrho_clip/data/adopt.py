"""Adopting tars: a manifest and indexes for samples that stay where they lie.

A tar gives one shard per split that its samples have, each with the index of the samples of that split. So splits, filters and
bad samples cost nothing but a line that is not there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from drrho_clip.data.manifest import SPLITS, Failure
from drrho_clip.data.prepare import Prepared
from drrho_clip.data.sources.base import Rejected
from drrho_clip.data.sources.shards import ShardsSource
from drrho_clip.data.tally import EXAMPLES
from drrho_clip.errors import ConfigError

if TYPE_CHECKING:
    from drrho_clip.data.config import IngestConfig
    from drrho_clip.data.manifest import Manifest
    from drrho_clip.data.sources.adoption import TarFacts
    from drrho_clip.data.sources.base import Place, Source
    from drrho_clip.data.tally import Tally
    from drrho_clip.data.writer import ShardWriter

Kept = dict[str, list[tuple[str, "Place"]]]  # (key, place) of the samples of one tar, by split


def check_adoption(config: IngestConfig) -> None:
    """Raise ConfigError for settings that do not fit the source, or ask for other bytes than adopted tars have."""
    for name in ("adopt", "uids"):
        if getattr(config, name) and config.source != "shards":
            raise ConfigError(f"{name} is for the source 'shards', not for '{config.source}'", fix=f"Leave {name} out.")
    if not config.adopt:
        return
    asked = {
        "image_size": config.image_size > 0,
        "caption_noise": config.caption_noise > 0 and config.caption_noise_part == "all",
    }
    for name in (name for name, is_set in asked.items() if is_set):
        raise ConfigError(
            f"{name} = {getattr(config, name)} does not go with adopt: adopted tars stay as they are",
            fix=f"Copy them (adopt: false), or leave {name} out.",
        )


def adopt_all(results: Iterable[Prepared | Rejected], facts: dict[int, TarFacts], writer: ShardWriter, tally: Tally) -> None:
    """Write the indexes of the tars that `results` come from, one tar after the other; `facts` has them by number."""
    kept: Kept = defaultdict(list)
    tar = -1
    for result in results:
        tally.add(result)
        if isinstance(result, Rejected):
            continue
        assert result.place is not None
        if result.place.tar != tar:
            _write(kept, facts, writer)
            kept, tar = defaultdict(list), result.place.tar
        kept[result.split].append((result.key, result.place))
    tally.check()
    _write(kept, facts, writer)


def _write(kept: Kept, facts: dict[int, TarFacts], writer: ShardWriter) -> None:
    for split in SPLITS:
        if split in kept:
            keys, places = zip(*kept[split], strict=True)
            writer.adopt_tar(facts[places[0].tar], split, keys, [place.members for place in places])


def passes_over(source: ShardsSource, existing: Manifest) -> bool:
    """Whether the tars that a dataset has need not be read again: all that can be taken of them was."""
    before, now = (existing.uids.sha256 if existing.uids else ""), (source.uids.sha256 if source.uids else "")
    return source.adoption is not None and not existing.source.get("samples") and before == now


def account(source: Source, existing: Manifest | None, failed: dict[str, Failure]) -> dict[str, Any]:
    """Return what a manifest says of rows without a sample: those that `failed` in this ingest, and what became of uids."""
    if not isinstance(source, ShardsSource):
        return {"failed": failed}
    before = existing if existing and source.adoption and source.adoption.passes_over else None
    uids = source.uids.counts(before.uids if before else None) if source.uids else None
    return {"failed": _added(before.failed, failed) if before else failed, "uids": uids}


def _added(before: dict[str, Failure], now: dict[str, Failure]) -> dict[str, Failure]:
    """Return the failures of an earlier ingest with those of this one."""
    nothing = Failure(count=0)
    pairs = {reason: (before.get(reason, nothing), now.get(reason, nothing)) for reason in sorted({*before, *now})}
    return {
        reason: Failure(count=a.count + b.count, examples=(a.examples + b.examples)[:EXAMPLES])
        for reason, (a, b) in pairs.items()
    }
