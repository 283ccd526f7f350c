"""The whole product on real images: `drrho demo`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drrho_clip.data.config import IngestConfig
from drrho_clip.observe import configure_logs
from drrho_clip.observe.logs import LEVEL
from drrho_clip.storage import Store, layout, open_store
from drrho_clip.training import TrainConfig
from drrho_pipelines.local import make_folder
from drrho_pipelines.settings import DemoSettings


@dataclass(frozen=True)
class Part:
    """One part of the demo: what it does, the object in the store that shows that it is done, and the work."""

    title: str
    key: str
    work: Callable[[], object]


def run_demo(settings: DemoSettings, store: str | None, folder: Path) -> None:
    """Ingest, train a reference, run the pipeline once per method, compare; print a table and the path of the report.

    Without a `store` an S3 server is started in `folder` and stopped at the end. What is done already is found.
    """
    if sys.stderr.isatty():
        os.environ.setdefault(LEVEL, "warning")  # bars and one line per part say enough
        configure_logs()
    started = time.monotonic()
    make_folder(folder)
    with _store(store, folder) as opened, tempfile.TemporaryDirectory(prefix="drrho-demo-") as scratch:
        parts = _parts(settings, opened, folder, Path(scratch))
        for number, part in enumerate(parts, start=1):
            _run_part(part, f"[{number}/{len(parts)}]", opened)
        page = folder / f"{settings.comparison}.html"
        opened.download(layout.comparison(settings.comparison), page)
        _say("")
        _say(_table(settings, opened))
    _say("")
    _say(f"Report: {page.resolve()}")
    _say(f"Took {_duration(time.monotonic() - started)}.")


@contextmanager
def _store(store: str | None, folder: Path) -> Iterator[Store]:
    if store is not None:
        yield open_store(store)
        return
    from drrho_pipelines.seaweed import SeaweedServer

    with SeaweedServer(folder / "server") as server:
        os.environ.update(server.environment)  # this process and the steps that it starts
        yield open_store(server.store_uri)


def _parts(settings: DemoSettings, store: Store, folder: Path, scratch: Path) -> list[Part]:
    reference = settings.reference_config(store.uri)
    dirty = settings.method_config(store.uri, next(iter(settings.methods))).ingest
    return [
        Part(f"dataset {dirty.dataset}", layout.dataset_manifest(dirty.dataset), lambda: _ingest(dirty, store)),
        Part(
            f"dataset {reference.dataset}, its clean part",
            layout.dataset_manifest(reference.dataset),
            lambda: _ingest(reference.ingest, store),
        ),
        Part(f"reference {reference.run}", layout.run_summary(reference.run), lambda: _train(reference.train, store)),
        *(_method_part(settings, method, store, folder, scratch) for method in settings.methods),
        Part("comparison", "", lambda: _compare(settings, store)),
    ]


def _method_part(settings: DemoSettings, method: str, store: Store, folder: Path, scratch: Path) -> Part:
    config = settings.method_config(store.uri, method)

    def work() -> None:
        from drrho_pipelines.compile import compile_pipelines
        from drrho_pipelines.local import declared_parameters, run_local
        from drrho_pipelines.mapping import pipeline_parameters
        from drrho_pipelines.output import Output

        (compiled,) = compile_pipelines(scratch, names=("steering",))
        output = Output(quiet=sys.stderr.isatty())
        run_local(compiled, pipeline_parameters(config, declared_parameters(compiled)), folder / "pipeline-root", output)

    return Part(f"pipeline steering with {method}, run {config.run}", layout.report(config.run), work)


def _ingest(config: IngestConfig, store: Store) -> object:
    from drrho_clip.data.ingest import ingest

    return ingest(config, store)


def _train(config: TrainConfig, store: Store) -> object:
    from drrho_clip.training import train

    return train(config, store)


def _compare(settings: DemoSettings, store: Store) -> str:
    from drrho_clip.report import write_report

    return write_report(settings.comparison_config(store.uri), store)


def _table(settings: DemoSettings, store: Store) -> str:
    from drrho_clip.report import comparison_table, load_results, render_table

    config = settings.comparison_config(store.uri)
    return render_table(comparison_table(load_results(store, config.run_names, dataset=config.dataset, split=config.split)))


def _run_part(part: Part, number: str, store: Store) -> None:
    found = bool(part.key) and store.head(part.key) is not None
    _say(f"{number} {part.title} ...")
    started = time.monotonic()
    part.work()
    _say(f"{number} {part.title}: {'found' if found else 'done'} in {_duration(time.monotonic() - started)}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def _say(text: str) -> None:
    print(text, flush=True)
