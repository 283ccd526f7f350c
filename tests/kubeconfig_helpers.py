"""A kubeconfig for a server of a test's own."""

from __future__ import annotations

from pathlib import Path

import yaml


def write_kubeconfig(path: Path, server: str, **context: str) -> str:
    """Write a file with one user and one context, `here`, which has more settings in `context`; return its path."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", **context}}],
        "users": [{"name": "me", "user": {"token": "sesame"}}],
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return str(path)
