"""Why a process of a run ended, as a small file that outlives it: for the launcher on the same machine, or for Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

PEER_LOST = "PeerLost"
"""Kind of a failure whose cause lies in another process."""
STOPPED = "Stopped"
"""Kind of an end that somebody asked of this process, or of another one of its group."""
CONSEQUENCES = (PEER_LOST, STOPPED)


def clear_failure(file: str | None) -> None:
    """Forget what an earlier attempt left: an elastic agent starts processes again beside the same file."""
    if file and Path(file).exists():
        Path(file).write_text("")


def write_failure(file: str | None, what: str, *, where: str = "", fix: str = "", kind: str) -> None:
    """Write the failure, unless another process of the machine wrote one that says more."""
    if not file:
        return
    path = Path(file)
    before = parse_failure(path.read_text()) if path.exists() else None
    if before is None or before["kind"] in CONSEQUENCES:
        path.write_text(json.dumps({"what": what[:2000], "where": where, "fix": fix, "kind": kind}))


def parse_failure(text: str) -> Mapping[str, str] | None:
    """What, where, fix and kind of a failure, or None where `text` is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or not {"what", "where", "fix", "kind"} <= found.keys():
        return None
    return {key: str(found[key]) for key in ("what", "where", "fix", "kind")}
