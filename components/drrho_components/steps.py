"""What the component bodies share. Imported inside containers, so nothing here defines a component."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from drrho_clip.errors import ConfigError, DrrhoError
from drrho_clip.observe import configure_logs, get_logger
from drrho_clip.schema import Config

if TYPE_CHECKING:
    from drrho_clip.storage.lease import KeptLease

C = TypeVar("C", bound=Config)

MACRO = re.compile(r"\[\[[^\[\]]*\]\]")
"""[[ScheduledTime]] and its like."""

SECRET_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
"""Keys of the store's secret, and the environment variables that they become."""

FAILED = "step_failed"
"""The event of the one log line that says why a step failed."""


@contextmanager
def step(name: str, arguments: Mapping[str, Any]) -> Iterator[KeptLease | None]:
    """Run the body of a component: logs and endpoint set up; a DrrhoError becomes one log line and exit code 2.

    Where a lease is among the arguments it is kept while the body runs, and yielded.
    """
    configure_logs(json=True, component=name)
    try:
        refuse_macros(arguments)
        use_endpoint(arguments["store_endpoint"])
        with lease(arguments) as kept:
            yield kept
    except DrrhoError as error:
        get_logger().error(FAILED, error=str(error), kind=type(error).__name__)
        raise SystemExit(error.exit_code) from None


def lease(arguments: Mapping[str, Any]) -> AbstractContextManager[KeptLease | None]:
    """The lease that `arguments` name as name:holder:seconds, to be kept; None where they name none."""
    text = arguments.get("lease", "")
    if not text:
        return nullcontext()
    from drrho_clip.storage import layout, open_store
    from drrho_clip.storage.lease import KeptLease

    name, holder, seconds = text.split(":")
    return KeptLease(open_store(arguments["store"]), layout.lease(name), holder, float(seconds))


def refuse_macros(arguments: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument with a macro of recurring runs, which the server leaves as it is."""
    for name, value in arguments.items():
        if isinstance(value, str) and (found := MACRO.search(value)):
            raise ConfigError(
                f"'{name}' holds {found[0]}, which Kubeflow Pipelines does not replace",
                where=value,
                fix="Leave it out: a run's name is made inside the pipeline `continual`, from the version of its data.",
            )


def settings(config: type[C], arguments: Mapping[str, Any]) -> C:
    """Return the config made of those `arguments` of a component that are its fields, and log it as understood."""
    parsed = config.parse({name: value for name, value in arguments.items() if name in config.model_fields})
    get_logger().info("settings", **parsed.model_dump())
    return parsed


def under(prefix: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `arguments` that begin with `prefix` and an underscore, without them."""
    return {name.removeprefix(f"{prefix}_"): value for name, value in arguments.items() if name.startswith(f"{prefix}_")}


def skipped(reason: str) -> None:
    """Log that this step has nothing to do."""
    get_logger().info("step_skipped", reason=reason)


def use_endpoint(endpoint: str) -> None:
    """Make `endpoint` (empty = leave as it is) the S3 endpoint of this process and of those that it starts."""
    check_endpoint(endpoint)
    if endpoint:
        os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ENDPOINT_URL_S3=endpoint)


def check_endpoint(endpoint: str) -> None:
    """Raise ConfigError for what is no endpoint, or holds a password."""
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


def write_manifest(artifact: Any, uri: str, facts: Mapping[str, Any]) -> None:
    """Fill a KFP artifact with a few facts and the URI of what it stands for; the bulk itself stays where it is."""
    record = {"uri": uri, **facts}
    artifact.metadata.update(record)
    with open(artifact.path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)


def fingerprint(*results: Config) -> str:
    """Return a short hash of what a step published: given to later steps, it changes their cache key when the result did."""
    return hashlib.sha256("".join(result.model_dump_json() for result in results).encode()).hexdigest()[:16]
