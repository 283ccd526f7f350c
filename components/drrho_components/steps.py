"""What the component bodies share. Imported inside containers, so nothing here defines a component."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from drrho_clip.errors import ConfigError, DrrhoError
from drrho_clip.observe import configure_logs, get_logger
from drrho_clip.schema import Config

C = TypeVar("C", bound=Config)

FAILED = "step_failed"
"""The event of the one log line that says why a step failed."""


@contextmanager
def step(name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Run the body of a component: logs and endpoint set up; a DrrhoError becomes one log line and exit code 2."""
    configure_logs(json=True, component=name)
    try:
        use_endpoint(arguments["store_endpoint"])
        yield
    except DrrhoError as error:
        get_logger().error(FAILED, error=str(error), kind=type(error).__name__)
        raise SystemExit(error.exit_code) from None


def settings(config: type[C], arguments: Mapping[str, Any]) -> C:
    """Return the config made of those `arguments` of a component that are its fields, and log it as understood."""
    parsed = config.parse({name: value for name, value in arguments.items() if name in config.model_fields})
    get_logger().info("settings", **parsed.model_dump())
    return parsed


def skipped(reason: str) -> None:
    """Log that this step has nothing to do."""
    get_logger().info("step_skipped", reason=reason)


def use_endpoint(endpoint: str) -> None:
    """Make `endpoint` (empty = leave as it is) the S3 endpoint of this process and of those that it starts."""
    if not endpoint:
        return
    parts = urlsplit(endpoint)
    if parts.username or parts.password:
        raise ConfigError(
            "The store's endpoint holds a user name or password, which everybody who sees the run could read",
            fix="Put the keys into a Kubernetes secret and name it in store_secret.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"'{endpoint}' is no endpoint", where="store_endpoint", fix="Write it as http://host:port.")
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ENDPOINT_URL_S3=endpoint)


def write_manifest(artifact: Any, uri: str, facts: Mapping[str, Any]) -> None:
    """Fill a KFP artifact with a few facts and the URI of what it stands for; the bulk itself stays where it is."""
    record = {"uri": uri, **facts}
    artifact.metadata.update(record)
    with open(artifact.path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)


def fingerprint(*results: Config) -> str:
    """Return a short hash of what a step published: given to later steps, it changes their cache key when the result did."""
    return hashlib.sha256("".join(result.model_dump_json() for result in results).encode()).hexdigest()[:16]
