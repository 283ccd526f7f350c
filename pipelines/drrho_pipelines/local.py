"""Compiled pipelines on this machine, under kfp.local, in a process group of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from drrho_clip.errors import ConfigError, DrrhoError, LaunchError, nearest
from drrho_clip.observe.logs import LEVEL
from drrho_clip.observe.progress import SECONDS
from drrho_components.steps import FAILED
from drrho_pipelines.check import check_settings
from drrho_pipelines.output import Output

JSON_KINDS: Mapping[str, type] = {"STRUCT": dict, "LIST": list}
GRACE_SECONDS = 30.0
"""How long steps may take to end (training writes a checkpoint) before they are killed."""


def run_local(compiled: Path, parameters: Mapping[str, Any], root: Path, output: Output | None = None) -> None:
    """Run a compiled pipeline with `parameters`, its artifacts under `root`; return when every step has succeeded.

    Raises ConfigError for an unknown or ill-typed parameter before anything starts, and LaunchError with the failed step's own
    reason. Whatever ends this (Ctrl-C, say) ends the steps, too.
    """
    output = output or Output()
    values = check_parameters(compiled, parameters)
    _refuse_python3({**values, "root": str(root.resolve())})
    make_folder(root)
    with tempfile.TemporaryDirectory(prefix="drrho-pipeline-") as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps({"pipeline": str(compiled), "parameters": values, "root": str(root)}))
        # kfp leaves temporary folders behind; these go with ours
        environment = {"TMPDIR": folder}
        if output.on_terminal:  # it draws bars from the log
            environment |= {LEVEL: "info", SECONDS: "0.5"}
        with _started([sys.executable, "-m", "drrho_pipelines.local_worker", str(job)], environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                output.line(line.decode(errors="replace"))
            code = process.wait()
    output.close()
    if code != 0:
        raise _reason(output)


def make_folder(folder: Path) -> None:
    """Make a folder for output; ConfigError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot write there: {error.strerror}", where=str(folder), fix="Name another folder.") from None


def check_parameters(compiled: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return `parameters` with the types that the pipeline declares; ConfigError for those that it lacks or cannot take.

    Values outside the limits of a step's setting are refused, too, by the parameter's name.
    """
    declared = declared_parameters(compiled)
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        if name not in declared:
            raise ConfigError(f"The pipeline has no parameter '{name}'", where=str(compiled), fix=nearest(name, declared))
        try:
            values[name] = _typed(value, declared[name]["parameterType"])
        except (TypeError, ValueError):
            kind = declared[name]["parameterType"].removeprefix("NUMBER_").lower()
            raise ConfigError(f"The parameter '{name}' takes a value of the type {kind}, not {value!r}") from None
    check_settings({name: parameter.get("defaultValue") for name, parameter in declared.items()} | values)
    return values


def declared_parameters(compiled: Path) -> dict[str, Any]:
    """The parameters of a compiled pipeline: name to type and default."""
    try:
        specification = next(iter(yaml.safe_load_all(compiled.read_text(encoding="utf-8"))))
        return dict(specification["root"]["inputDefinitions"]["parameters"])
    except FileNotFoundError:
        raise ConfigError("There is no such pipeline file", where=str(compiled)) from None
    except (yaml.YAMLError, StopIteration, KeyError, TypeError, UnicodeDecodeError):
        raise ConfigError(
            "This is no compiled pipeline", where=str(compiled), fix="`drrho pipeline compile` makes one."
        ) from None


def _typed(value: Any, kind: str) -> Any:
    if kind == "STRING":
        return str(value)
    if kind in JSON_KINDS:
        value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, JSON_KINDS[kind]):
            raise ValueError(value)
        return value
    if kind == "BOOLEAN":
        if str(value).lower() not in ("true", "false"):
            raise ValueError(value)
        return str(value).lower() == "true"
    number = float(value)
    if kind == "NUMBER_INTEGER":
        if not number.is_integer():
            raise ValueError(value)
        return int(number)
    return number


def _refuse_python3(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if "python3" in str(value):
            raise ConfigError(
                f"{name} contains 'python3', which the local runner of Kubeflow Pipelines would replace by the path of Python",
                where=str(value),
                fix="Use another name or a link to it.",
            )


@contextmanager
def _started(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the worker as the head of a process group, and leave nothing of the group behind, however this ends."""
    everything = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=everything)
    try:
        yield process
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: the pipe of its output closes when the last process of it has gone."""
    assert process.stdout is not None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if _drained(process.stdout.fileno(), GRACE_SECONDS):
            break
    process.wait()


def _drained(pipe: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not os.read(pipe, 65536):
            return True
    return False


def _reason(output: Output) -> DrrhoError:
    failed = output.last(FAILED)
    if failed is not None:
        return LaunchError(f"The step '{failed['component']}' failed: {failed['error']}")
    return LaunchError(f"The step '{output.task}' failed without a reason of its own. Its last lines: " + " | ".join(output.tail))
