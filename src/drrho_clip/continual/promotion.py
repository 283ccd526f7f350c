"""Promotion: the one run that is the best so far under a name, replaced only by a run that is better on the same data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from drrho_clip.continual.config import PromoteConfig
from drrho_clip.errors import DataError, ObjectChanged
from drrho_clip.evaluation import Evaluation, evaluate
from drrho_clip.observe import get_logger
from drrho_clip.schema import Config
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.storage import Store


class Promoted(Config):
    """The content of promoted/<name>.json. `previous` is the run that it replaced, empty for the first."""

    name: str
    run: str
    dataset: str
    dataset_version: int  # of the split that it was judged on
    metric: str
    value: float
    margin: float
    previous: str
    previous_value: float | None
    model: str  # URI of the export
    weights_sha256: str
    report: str  # URI
    promoted: str  # UTC, ISO 8601


class Decision(Config):
    """What was decided about a run, and why: kept beside it."""

    name: str
    run: str
    promoted: bool
    why: str
    dataset_version: int
    metric: str
    value: float
    previous: str
    previous_value: float | None
    margin: float


def promote(config: PromoteConfig, store: Store) -> Decision:
    """Promote the run where its metric is larger than the promoted run's by more than the margin; both are evaluated now.

    The first run is promoted whatever its metric. Of two runs that are judged at the same time the second is compared with the
    first. A decision that was made stays. ConfigError for a metric that the evaluation does not have.
    """
    if (found := find_decision(config.run, store)) is not None and found.name == config.name:
        get_logger().info("promotion_found", **found.model_dump())
        return found
    while True:
        incumbent, etag = _read(config.name, store)
        if incumbent is not None and incumbent.run == config.run:  # promoted, and then interrupted
            decision = _decision(config, incumbent.dataset_version, incumbent.value, incumbent.previous, incumbent.previous_value)
            break
        mine = evaluate(config.evaluation(config.run), store)
        value, previous, previous_value = mine.metric(config.metric), "", None
        if incumbent is not None:
            theirs = evaluate(config.evaluation(incumbent.run), store)
            _check_same_data(mine, theirs)
            previous, previous_value = incumbent.run, theirs.metric(config.metric)
        decision = _decision(config, mine.dataset_version, value, previous, previous_value)
        if not decision.promoted or _publish(decision, mine, store, etag):
            break
    store.write(layout.promotion(config.run), decision.model_dump_json(indent=1).encode())
    get_logger().info("promotion_decided", **decision.model_dump())
    return decision


def find_promoted(name: str, store: Store) -> Promoted | None:
    """The run that is promoted under this name, or None."""
    return _read(name, store)[0]


def find_decision(run: str, store: Store) -> Decision | None:
    """What was decided about a run, or None where nothing was yet."""
    key = layout.promotion(run)
    if store.head(key) is None:
        return None
    try:
        return Decision.model_validate_json(store.read(key))
    except ValueError:
        raise DataError("This is no decision about a run", where=store.uri_of(key), fix="Delete it.") from None


def _decision(config: PromoteConfig, version: int, value: float, previous: str, previous_value: float | None) -> Decision:
    if previous_value is None:
        better, why = True, "nothing was promoted before"
    else:
        better = value > previous_value + config.margin
        why = f"{config.metric} {value:.4f} is {'' if better else 'not '}more than {previous_value:.4f} of '{previous}'"
        why += f" by {config.margin:g}" if config.margin else ""
    return Decision(
        name=config.name,
        run=config.run,
        promoted=better,
        why=why,
        dataset_version=version,
        metric=config.metric,
        value=value,
        previous=previous,
        previous_value=previous_value,
        margin=config.margin,
    )


def _check_same_data(mine: Evaluation, theirs: Evaluation) -> None:
    if (mine.shards_id, mine.classes_id) != (theirs.shards_id, theirs.classes_id):
        raise DataError(
            f"'{mine.name}' and '{theirs.name}' were evaluated on different data: the dataset '{mine.dataset}' grew meanwhile",
            fix="Run this step again.",
        )


def _publish(decision: Decision, evaluation: Evaluation, store: Store, etag: str | None) -> bool:
    """Whether this run is now the promoted one: False where another was promoted since the incumbent was read."""
    promoted = Promoted(
        **decision.model_dump(exclude={"promoted", "why"}),
        dataset=evaluation.dataset,
        model=store.uri_of(layout.export(decision.run)),
        weights_sha256=str(evaluation.model["weights_sha256"]),
        report=store.uri_of(layout.report(decision.run)),
        promoted=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    data = (promoted.model_dump_json(indent=1) + "\n").encode()
    try:
        store.write(layout.promoted(decision.name), data, if_absent=etag is None, if_match=etag)
    except ObjectChanged:
        return False
    return True


def _read(name: str, store: Store) -> tuple[Promoted | None, str | None]:
    key = layout.promoted(name)
    while True:
        info = store.head(key)
        if info is None:
            return None, None
        try:
            return Promoted.model_validate_json(store.read(key, etag=info.etag)), info.etag
        except ObjectChanged:
            continue
        except ValueError:
            raise DataError(
                "The promoted run cannot be read", where=store.uri_of(key), fix="Restore the object, or delete it to start anew."
            ) from None
