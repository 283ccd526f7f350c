"""The console script `drrho`: the library's commands, the pipelines and the demo."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from drrho_clip.cli import add_command, make_app, run_app
from drrho_clip.cli.options import ConfigOption, SetOption, StoreOption, resolve
from drrho_clip.cli.show import show
from drrho_pipelines.cluster.command import doctor
from drrho_pipelines.server.commands import COMMANDS as SERVER_COMMANDS
from drrho_pipelines.server.options import ParameterOption, assignments

DebugLog = Annotated[bool, typer.Option("--verbose", "-v", help="Show everything that the steps and their runner print.")]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run_app(make_full_app()))


def make_full_app() -> typer.Typer:
    """The library's app, with `pipeline` and `demo` added, and a `doctor` that knows clusters."""
    app = make_app()
    add_command(app, doctor)
    group = typer.Typer(
        name="pipeline",
        help="Compile the pipelines for Kubeflow, run one on this machine, or on a server, now or on a schedule.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in (run, compile_command, list_command, *SERVER_COMMANDS):
        add_command(group, command, command.__name__.removesuffix("_command"))
    app.add_typer(group)
    add_command(app, demo)
    return app


def run(
    name: Annotated[str, typer.Argument(help="The pipeline; `drrho pipeline list` shows them.")] = "steering",
    config: ConfigOption = None,
    store: StoreOption = None,
    root: Annotated[Path, typer.Option(help="Folder for the small artifacts of the steps.")] = Path("pipeline-root"),
    settings: SetOption = None,
    extra: ParameterOption = None,
    verbose: DebugLog = False,
) -> None:
    """Run a compiled pipeline on this machine, with the settings of a config; steps that are done are found.

    \b
    Examples:
      drrho pipeline run --config my.yaml
      drrho pipeline run --config my.yaml --set train.method=fastclip --set run=fastclip
      drrho pipeline run --config my.yaml -p train_processes=2
    """
    resolved = resolve(config, settings, {"store": store})
    from drrho_pipelines.compile import compile_pipelines
    from drrho_pipelines.local import declared_parameters, run_local
    from drrho_pipelines.mapping import pipeline_parameters
    from drrho_pipelines.output import Output

    with tempfile.TemporaryDirectory(prefix="drrho-") as folder:
        (compiled,) = compile_pipelines(Path(folder), names=(name,))
        parameters = pipeline_parameters(resolved, declared_parameters(compiled)) | assignments(extra)
        run_local(compiled, parameters, root, Output(verbose=verbose))
    show(f"pipeline {name}", {key: parameters[key] for key in ("store", "run", "study_name") if parameters.get(key)})


def compile_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the YAML files.")] = Path("dist"),
    image: Annotated[str | None, typer.Option(help="Image of every step, pinned by version or digest.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Take image and store from this namespace's ConfigMap drrho-clip.")
    ] = None,
) -> None:
    """Write one YAML per pipeline, ready for upload in the Kubeflow UI.

    \b
    Examples:
      drrho pipeline compile --out dist/
      drrho pipeline compile --image registry.example/drrho-clip@sha256:...
      drrho pipeline compile --namespace kubeflow
    """
    from drrho_components import IMAGE
    from drrho_pipelines.compile import compile_pipelines

    defaults: dict[str, str] = {}
    if namespace:
        from drrho_pipelines.cluster.defaults import defaults_of

        defaults = defaults_of(namespace)
    chosen = image or defaults.get("image", IMAGE)
    files = compile_pipelines(out, chosen, store=defaults.get("store", ""))
    show("compiled", {file.stem: str(file) for file in files} | {"image": chosen})


def list_command() -> None:
    """Show the pipelines and what they do.

    \b
    Examples:
      drrho pipeline list
    """
    from drrho_pipelines.compile import pipelines

    show("pipelines", {name: pipeline.description for name, pipeline in pipelines().items()})


def demo(
    store: Annotated[str | None, typer.Option(help="A folder or s3:// URI to use; else an S3 server is started.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the server keeps its data, and the report goes.")] = Path("demo"),
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with settings of a study of your own.")] = None,
    data: Annotated[str | None, typer.Option(help="Path of the data, where the source needs one.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every training.")] = None,
) -> None:
    """Show the whole product on real images: OpenMoji with exchanged captions, three methods, one report.

    \b
    Examples:
      drrho demo
      drrho demo --store some/folder
      drrho demo --config examples/clipart/clipart.yaml --data /path/to/png
    """
    from drrho_pipelines.demo import run_demo
    from drrho_pipelines.settings import load_demo

    run_demo(load_demo(config, data=data, seed=seed), store, folder)


if __name__ == "__main__":
    main()
