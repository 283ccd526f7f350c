"""What is to be done about a new version of a dataset: which run to train, from which, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drrho_clip.continual.promotion import find_decision, find_promoted
from drrho_clip.errors import ConfigError
from drrho_clip.observe import get_logger
from drrho_clip.schema import Config
from drrho_clip.storage import layout
from drrho_clip.training import find_summary

if TYPE_CHECKING:
    from drrho_clip.storage import Store


class Work(Config):
    """The run that is to be trained next (empty: none), the `initial` of its training (empty: from scratch), and why."""

    run: str
    initial: str
    why: str


def run_name(name: str, version: int) -> str:
    """Name of the run for one version of the dataset: an interrupted one is found again by the next that tries."""
    return f"{name}-v{version}"


def find_work(name: str, dataset: str, version: int, store: Store) -> Work:
    """Say what is to be done about `version` of `dataset`: nothing, where it was trained on and judged under this name.

    Training goes on from the promoted run, or else from the last one that is finished.
    """
    promoted = find_promoted(name, store)
    if promoted is not None and promoted.dataset != dataset:
        raise ConfigError(
            f"'{name}' was promoted with the dataset '{promoted.dataset}', not '{dataset}'",
            where=store.uri_of(layout.promoted(name)),
            fix="Give another run name to another dataset.",
        )
    decision = find_decision(run_name(name, version), store)
    if decision is not None:
        verdict = "promoted" if decision.promoted else "not promoted"
        work = Work(run="", initial="", why=f"nothing is new since version {version}: '{decision.run}' was {verdict}")
    else:
        initial = promoted.run if promoted else _last_finished(name, version, store)
        start = f"from '{initial}'" if initial else "from scratch"
        why = f"version {version} of '{dataset}' is new: train '{run_name(name, version)}' {start}"
        work = Work(run=run_name(name, version), initial=f"run:{initial}" if initial else "", why=why)
    get_logger().info("continual_work", **work.model_dump())
    return work


def _last_finished(name: str, version: int, store: Store) -> str:
    candidates = (run_name(name, earlier) for earlier in range(version - 1, 0, -1))
    return next((run for run in candidates if find_summary(run, store) is not None), "")
