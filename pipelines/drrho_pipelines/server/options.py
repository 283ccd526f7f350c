"""Options that the commands around a server share, and how they become an Address."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from drrho_clip.errors import ConfigError

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--param", "--parameter", "-p", metavar="NAME=VALUE", help="A parameter of the pipeline; may be repeated."),
]
ImageOption = Annotated[str | None, typer.Option(envvar="DRRHO_IMAGE", help="Image of every step, pinned by version or digest.")]
CommitOption = Annotated[
    str,
    typer.Option(envvar=["DRRHO_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA"], help="Commit to name the pipeline's version after."),
]
CachingOption = Annotated[bool, typer.Option("--cache/--no-cache", help="Whether steps may be taken from the server's cache.")]
ServiceAccountOption = Annotated[str, typer.Option(help="Service account of the steps; empty = the server's choice.")]
WaitOption = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end: exit code 0 succeeded, 1 failed, 3 not known.")]
TimeoutOption = Annotated[str, typer.Option(help="How long to wait at most: 90s, 30m, 2h, 1d; empty = without limit.")]
EveryOption = Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks at the run.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id; `drrho pipeline runs` shows them.")]

ADDRESS: dict[str, tuple[list[str], str]] = {
    "host": (["KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT"], "The server: http://host:port of its API or UI."),
    "namespace": (["KFP_NAMESPACE"], "Namespace of the runs, where several users share the server."),
    "experiment": (["KFP_EXPERIMENT"], "Experiment that holds runs and schedules; empty = drrho."),
    "token_file": (["KFP_TOKEN_FILE"], "File with a bearer token; read again for every request."),
    "token_command": (["KFP_TOKEN_COMMAND"], "Command that prints a bearer token; run again when the last one has run out."),
}


def with_address(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose first parameter is an Address the options that make one."""
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*arguments: Any, **named: Any) -> None:
        from drrho_pipelines.server.address import Address

        given = {name: named.pop(name) for name in ADDRESS}
        command(Address.parse({name: value for name, value in given.items() if value}), *arguments, **named)

    own = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=Annotated[str, typer.Option(envvar=variables, help=text)]
        )
        for name, (variables, text) in ADDRESS.items()
    ]
    # typer wants annotations, not their text; the address itself is none of its business
    hints = get_type_hints(command, localns={"Address": object}, include_extras=True)
    _, *rest = (parameter.replace(annotation=hints[name]) for name, parameter in signature.parameters.items())
    run.__signature__ = signature.replace(parameters=[*rest, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*rest, *own)} | {"return": None}
    return run


def assignments(texts: list[str] | None) -> dict[str, str]:
    """NAME=VALUE texts as a dict; ConfigError for one without a name or '='."""
    for text in texts or []:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise ConfigError(f"'{text}' sets nothing", where="--param", fix="Write it as -p train_processes=2.")
    return {name.strip(): value for name, _, value in (text.partition("=") for text in texts or [])}


def seconds(text: str) -> float | None:
    """A duration in seconds; None where it is empty. ConfigError where it is none."""
    if not text.strip():
        return None
    match = DURATION.fullmatch(text.strip().lower())
    if match is None or not float(match[1]):
        raise ConfigError(f"'{text}' is no duration", where="--timeout", fix="Write it as 90s, 30m, 2h or 1d.")
    return float(match[1]) * UNITS[match[2]]
