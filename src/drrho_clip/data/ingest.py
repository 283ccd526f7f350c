"""The step `ingest`: from a source to shards and a manifest. Ingesting again adds what is new and touches nothing else."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from drrho_clip.data.adopt import account, adopt_all, check_adoption, passes_over
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.groups import GroupDone, GroupWork, check_groups
from drrho_clip.data.ledger import Ledger, RowLedger
from drrho_clip.data.manifest import SPLITS, Manifest, dataset_id, newest_manifest, publish
from drrho_clip.data.parts import Parts, PartsGone
from drrho_clip.data.prepare import Prepared, Row, prepare_all, with_split
from drrho_clip.data.sources import RawSample, Rejected, Source, open_source
from drrho_clip.data.sources.http import public_url
from drrho_clip.data.sources.order import fingerprint_of
from drrho_clip.data.sources.shards import ShardsSource
from drrho_clip.data.tally import Tally
from drrho_clip.data.writer import ShardWriter
from drrho_clip.errors import ConfigError, DataError
from drrho_clip.observe import get_logger, progress, pushed
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store

SHARD_BYTES = 256 * 2**20  # a shard ends here even when it holds fewer samples than asked for; bounds the memory
_FREE_SETTINGS = {  # say nothing about the data
    *("workers", "max_bad_fraction", "allow_private", "retry_failed", "group", "groups"),
    *(name for name in IngestConfig.model_fields if name.startswith("download_")),
}
_GROWTH_SETTINGS = {"samples", "shard_samples"}  # may differ when a dataset grows


def ingest(config: IngestConfig, store: Store) -> Manifest:
    """Bring the dataset up to date with its source and return its newest manifest.

    Finds what is there, adds only samples whose key is new, publishes last. Raises ConfigError for settings that do not fit each
    other, DataError for settings that differ from those that made the dataset, for two samples with one key, when nothing is
    usable and when more rows than `max_bad_fraction` are bad; nothing is published then. With `groups` it does what the others
    have not done, and puts together what all have; the result is the same.
    """
    if config.group:
        raise ConfigError(f"Group {config.group} publishes nothing", fix="Call `ingest_group` for it, or `ingest` for group 0.")
    with pushed("ingest") as record:
        existing, source = _open(config, store)
        try:
            return _bring_in(config, store, existing, source, record)
        except PartsGone:  # another process of this group was faster
            get_logger().info("ingest_overtaken", dataset=config.dataset)
    return ingest(config, store)


def _bring_in(
    config: IngestConfig, store: Store, existing: Manifest | None, source: Source, record: dict[str, float]
) -> Manifest:
    # tars that are adopted are read whole, and what was found in one is kept until all are: as groups keep it
    kept = config.groups > 1 or (config.adopt and not config.samples)
    work = _group_work(config, store, existing, source) if kept else None
    if work is not None:
        work.do_all()
    with closing(_ledger(config, store, existing, source)) as ledger:
        return _add_new(config, store, existing, source, ledger, work, record)


def ingest_group(config: IngestConfig, store: Store) -> GroupDone:
    """Do the share of one of the groups beside group 0; nothing is published. Raises what `ingest` raises for its settings."""
    existing, source = _open(config, store)
    return _group_work(config, store, existing, source).do_own()


def _open(config: IngestConfig, store: Store) -> tuple[Manifest | None, Source]:
    """Return the dataset, where it is there, and the source."""
    _check(config)
    existing = newest_manifest(store, config.dataset)
    if existing is not None:
        _check_same(existing, config, store)
    source = open_source(config, store)
    if existing is not None and isinstance(source, ShardsSource) and source.adoption and passes_over(source, existing):
        source.adoption.pass_over(existing)
    _check_downloads(config, source, existing)
    return existing, source


def _ledger(config: IngestConfig, store: Store, existing: Manifest | None, source: Source) -> Ledger:
    settings = _settings(config)
    if source.downloads:
        return RowLedger(store, existing, config, settings)
    return Ledger(store, existing, config, settings | {"fingerprint": source.fingerprint()})


def _group_work(config: IngestConfig, store: Store, existing: Manifest | None, source: Source) -> GroupWork:
    """Return the work on what is not published yet. What an ingest that was killed has left is no part of it: it may go on."""
    with closing(_ledger(config, store, existing, source)) as ledger:
        ledger.read_published(Tally(config, 0))
        check_groups(config, source, ledger.known)
        rounds = config.download_rounds if source.downloads else 1
        made = (json.dumps(_settings(config), sort_keys=True), existing.id if existing else "", rounds, source.fingerprint())
        return GroupWork(config, source, ledger.known, Parts(store, config.dataset, fingerprint_of(made)[:16], rounds))


def _add_new(
    config: IngestConfig,
    store: Store,
    existing: Manifest | None,
    source: Source,
    ledger: Ledger,
    work: GroupWork | None,
    record: dict[str, float],
) -> Manifest:
    writer = ShardWriter(
        store,
        config.dataset,
        existing.shards if existing else (),
        seed=config.seed,
        caption_noise=config.caption_noise if config.caption_noise_part == "all" else 0.0,
    )
    tally = Tally(config, existing.total if existing else 0)
    ledger.catch_up(writer, tally)
    before = tally.good
    try:
        with closing(_prepared(source, config, ledger) if work is None else _put_together(work, config, ledger)) as results:
            if isinstance(source, ShardsSource) and source.adoption:
                adopt_all(results, source.adoption.facts, writer, tally)
            else:
                _write_all(results, writer, tally, ledger, config)
    finally:
        record["stage_samples"] = tally.good - before
        record |= tally.skipped
    if existing is not None and len(writer.shards) == len(existing.shards):
        if ledger.changed:
            ledger.publish(writer.shards)
        if work is not None:
            work.clean()
        get_logger().info("ingest_found", dataset=existing.name, version=existing.version, samples=existing.total)
        return existing
    manifest = _manifest(config, existing, writer, source, tally)
    writer.check_written()
    if config.adopt:
        _check_adopted(manifest, store, work)
    ledger.publish(writer.shards)
    publish(store, manifest)
    ledger.clean()
    if work is not None:
        work.clean()
    _say_done(manifest, tally)
    return manifest


def _check_adopted(manifest: Manifest, store: Store, work: GroupWork | None) -> None:
    """Raise DataError where a tar is no longer what was found in it, and forget all that was found, so that it is read again."""
    try:
        manifest.check(store)
    except DataError:
        if work is not None:
            work.clean()
        raise


def _say_done(manifest: Manifest, tally: Tally) -> None:
    get_logger().info(
        "ingest_done",
        dataset=manifest.name,
        version=manifest.version,
        samples=manifest.total,
        splits=manifest.splits,
        bad={reason: failure.count for reason, failure in manifest.failed.items()},
        exchanged=manifest.exchanged,
        left_out=tally.left_out,
        duplicates=tally.duplicates,
    )
    if manifest.uids and manifest.uids.found < manifest.uids.listed:
        missing = manifest.uids.listed - manifest.uids.found
        get_logger().warning("uids_missing", dataset=manifest.name, listed=manifest.uids.listed, missing=missing)


def _check(config: IngestConfig) -> None:
    layout.dataset(config.dataset)
    check_adoption(config)
    if config.heldout_fraction + config.validation_fraction >= 1:
        raise ConfigError(
            f"heldout_fraction {config.heldout_fraction:g} and validation_fraction {config.validation_fraction:g} leave nothing "
            "for training",
            fix="Together they must be less than 1.",
        )


def _check_downloads(config: IngestConfig, source: Source, existing: Manifest | None) -> None:
    asked = [name for name in ("retry_failed", "drop_duplicates") if getattr(config, name) not in (False, "none")]
    if asked and not source.downloads:
        raise ConfigError(f"{asked[0]} is for tables of URLs, and this source is none", fix=f"Leave {asked[0]} out.")
    if config.retry_failed and existing is None:
        raise DataError(
            f"There is no dataset '{config.dataset}' whose failed rows could be tried again",
            fix="Leave retry_failed out at first.",
        )


def _settings(config: IngestConfig) -> dict[str, Any]:
    """The settings as the manifest keeps them: what a URL holds for access only (user, query) is left out."""
    settings = config.model_dump(exclude=_FREE_SETTINGS)
    for name in ("path", "uids"):
        if settings[name].startswith(("http://", "https://")):
            settings[name] = public_url(settings[name])
    return settings


def _check_same(existing: Manifest, config: IngestConfig, store: Store) -> None:
    now = _settings(config)
    before = {name: existing.source.get(name, IngestConfig.model_fields[name].default) for name in now}
    different = [name for name in now if name not in _GROWTH_SETTINGS and before[name] != now[name]]
    if different:
        raise DataError(
            f"Dataset '{existing.name}' was made with other settings: "
            + ", ".join(f"{name} was {before[name]!r}, now {now[name]!r}" for name in different),
            where=store.uri_of(layout.dataset(existing.name)),
            fix="Use the old settings to add to it, or give the new data a name of its own (dataset).",
        )


def _total(source: Source, config: IngestConfig) -> int | None:
    counts = [count for count in (source.total(), config.samples) if count]
    return min(counts, default=None)


def _prepared(source: Source, config: IngestConfig, ledger: Ledger) -> Generator[Prepared | Rejected, None, None]:
    """Prepare what is new in the source."""
    done = len(ledger.known) + len(ledger.written)
    with closing(_rows(source, config, ledger)) as rows:
        shown = progress(rows, what=f"ingest {config.dataset}", total=_total(source, config), unit="img", done=done)
        with closing(prepare_all(shown, config, with_looks=source.downloads)) as results:
            yield from results


def _put_together(work: GroupWork, config: IngestConfig, ledger: Ledger) -> Generator[Prepared | Rejected, None, None]:
    """Yield what the groups have prepared, less what is known by now: an ingest that was killed has left it in a shard."""
    keys = _Keys(ledger)
    new = (result for result in work.results() if result.row.key not in ledger.known)
    for result in itertools.islice(new, _limit(config, ledger)):
        if result.was_sample:
            keys.add(result.row.key)
        if isinstance(result.row, Rejected) or result.row.key not in ledger.written:
            yield result.row


def _limit(config: IngestConfig, ledger: Ledger) -> int | None:
    return max(0, config.samples - len(ledger.known)) if config.samples else None


class _Keys:
    """The keys of the samples that have come so far, where two can be equal."""

    def __init__(self, ledger: Ledger) -> None:
        self._unique, self._seen = ledger.unique_keys, set[str]()

    def add(self, key: str) -> None:
        """Note a key; DataError for one that came before."""
        if key in self._seen:
            raise DataError(f"Two samples have the key '{key}'", fix="Rename or remove one; nothing was published.")
        if not self._unique:
            self._seen.add(key)


def _rows(source: Source, config: IngestConfig, ledger: Ledger) -> Generator[Row, None, None]:
    """Yield what is new in the source, each sample with its split."""
    known, keys = ledger.known, _Keys(ledger)
    found = source.samples(known)
    try:
        for row in itertools.islice(found, _limit(config, ledger)):
            if isinstance(row, RawSample):
                if row.key in known:
                    continue
                keys.add(row.key)
                if row.key in ledger.written:
                    continue
            yield with_split(row, config)
    finally:
        if isinstance(found, Generator):
            found.close()  # ends the downloads at once, whatever ended this


def _write_all(
    results: Iterable[Prepared | Rejected], writer: ShardWriter, tally: Tally, ledger: Ledger, config: IngestConfig
) -> None:
    """Collect the samples of each split and write a shard whenever one is full; what is left at the end, split by split."""
    pending: dict[str, list[Prepared]] = {split: [] for split in SPLITS}
    sizes = dict.fromkeys(SPLITS, 0)
    for found in results:
        result = found if isinstance(found, Rejected) else ledger.judge(found)
        tally.add(result)
        if isinstance(result, Rejected):
            ledger.note(result)
            continue
        split = result.split
        pending[split].append(result)
        sizes[split] += len(result.image.data)
        if len(pending[split]) >= config.shard_samples or sizes[split] >= SHARD_BYTES:
            _write(pending[split], split, writer, ledger)
            pending[split], sizes[split] = [], 0
    tally.check()
    for split, samples in pending.items():
        if samples:
            _write(samples, split, writer, ledger)


def _write(samples: list[Prepared], split: str, writer: ShardWriter, ledger: Ledger) -> None:
    ledger.wrote(writer.write(samples, split), samples, writer)


def _manifest(config: IngestConfig, existing: Manifest | None, writer: ShardWriter, source: Source, tally: Tally) -> Manifest:
    converted = Counter(existing.converted if existing else {}) + Counter(tally.converted)
    duplicates = Counter(existing.duplicates if existing else {}) + Counter(tally.duplicates)
    classes = tally.classes | set(existing.classnames if existing else ())
    return Manifest(
        name=config.dataset,
        version=existing.version + 1 if existing else 1,
        id=dataset_id(writer.shards),
        shards=tuple(writer.shards),
        classnames=tuple(source.classnames) or tuple(sorted(classes)),
        templates=tuple(source.templates),
        source=_settings(config),
        converted=dict(sorted(converted.items())),
        exchanged=writer.exchanged + (existing.exchanged if existing else 0),
        duplicates=dict(sorted(duplicates.items())),
        notice=source.notice,
        **account(source, existing, tally.failed),
    )
