"""The command line's frame: the app, its global options, and what an error looks like."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from drrho_clip.cli import setup, steps, studies, study, verifying, watching
from drrho_clip.errors import DrrhoError
from drrho_clip.observe import configure_logs
from drrho_clip.observe.logs import LEVEL

ClickException: type[Exception] = typer.BadParameter.__mro__[2]
"""The base of every usage error. Newer versions of typer hold a copy of click of their own, so it is found through typer."""


def make_app() -> typer.Typer:
    """The app with every command of the library."""
    app = typer.Typer(
        name="drrho",
        help="Train CLIP models that are steered by a reference model (DRRho-CLIP, arXiv 2505.06699).",
        epilog="Start with `drrho init` for your own data, or `drrho doctor` where something does not work.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_options)
    for command in (
        setup.init,
        setup.doctor,
        steps.ingest,
        steps.curate,
        steps.reference,
        steps.train,
        steps.evaluate,
        steps.report,
        watching.watch,
        verifying.verify,
        studies.advise,
        setup.version,
    ):
        add_command(app, command)
    app.add_typer(study.make_group())
    return app


def add_command(app: typer.Typer, command: Callable[..., None], name: str | None = None) -> None:
    """Add a command; the list of commands shows the first clause of its docstring."""
    summary = (command.__doc__ or "").split("\n")[0]
    app.command(name, short_help=re.split("[;:.]", summary)[0])(command)


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ[LEVEL] = "debug"  # for the processes that a command starts, too
    configure_logs()


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 good, 1 a fault of ours, 2 a fault in the input, 130 stopped by Ctrl-C.

    Commands that wait for a run on a server end with 1 where it failed and with 3 where its end is not known; `verify` ends with
    1 where something is damaged.

    SIGTERM ends the process with 143, through every `finally` on the way.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with _terminable():
            code = typer.main.get_command(app).main(arguments, prog_name="drrho", standalone_mode=False)
    except DrrhoError as error:
        return _failed(error, str(error), error.exit_code, debug="--debug" in arguments)
    except ClickException as error:
        return _failed(error, _usage_message(error), 2, debug=False)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _failed(error, "Stopped.", 130, debug=False)
    except BrokenPipeError:  # the reader of our output has gone (| head)
        sys.stderr.close()
        return 141
    return code if isinstance(code, int) else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, through its `finally` blocks."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns the process decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _failed(error: BaseException, message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if message:
        print(" ".join(message.split()), file=sys.stderr)
    return code


def _usage_message(error: Exception) -> str:
    message = str(getattr(error, "format_message", error.__str__)())
    context = getattr(error, "ctx", None)
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return ""
    sentence = message if message.endswith(("?", ".")) else message + "."
    return f"{sentence} See `{context.command_path} --help`." if context is not None else sentence
