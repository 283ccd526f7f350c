"""The step `report`: read what the runs left in the store, write one HTML page."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version

from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.weights import load_weights
from drrho_clip.errors import DrrhoError
from drrho_clip.method import METHODS
from drrho_clip.observe import get_logger, progress
from drrho_clip.report.config import ReportConfig
from drrho_clip.report.facts import dataset_facts, missing
from drrho_clip.report.gallery import Gallery, make_gallery
from drrho_clip.report.page import Page, render
from drrho_clip.report.results import Results, load_results
from drrho_clip.storage import Store, layout

MAX_TILES = 480  # samples in all galleries of a page: at 4 to 10 kB each they keep it within a few megabytes


def write_report(config: ReportConfig, store: Store) -> str:
    """Write the report of `config.runs` and return its URI; it is derived, so an older one under the same key is replaced.

    Raises DataError where a run does not exist, with those that do. Anything else that a run does not have (yet) is named in
    the page.
    """
    results = load_results(store, config.run_names, dataset=config.dataset, split=config.split)
    notes = list(missing(results))
    manifests = _manifests(store, results, notes)
    galleries = _galleries(config, store, results, manifests, notes)
    datasets = list({manifest.id: manifest for manifest in manifests.values()}.values())
    keys = [
        *results.sources,
        *(layout.dataset_manifest(manifest.name, manifest.version) for manifest in datasets),
        *(layout.run_weights(gallery.run) for gallery in galleries),
    ]
    page = Page(
        title=config.title or _title(config, results),
        results=results,
        datasets=[dataset_facts(manifest) for manifest in datasets],
        galleries=galleries,
        notes=notes,
        sources=[store.uri_of(key) for key in keys],
        versions={"drrho-clip": version("drrho-clip"), "Python": platform.python_version()},
        written=datetime.now(UTC),
    )
    html = render(page).encode(errors="backslashreplace")  # a lone surrogate in a name is no reason to fail
    store.write(config.key, html)
    get_logger().info("report_written", uri=store.uri_of(config.key), runs=len(results.runs), bytes=len(html), notes=len(notes))
    return store.uri_of(config.key)


def _title(config: ReportConfig, results: Results) -> str:
    if config.comparison:
        return f"Comparison: {config.comparison}"
    return f"{results.runs[0].title}: {results.runs[0].name}"


def _manifests(store: Store, results: Results, notes: list[str]) -> dict[str, Manifest]:
    """The manifest of the dataset version that each run was trained on, by run; what is wrong with one goes to `notes`."""
    manifests: dict[str, Manifest] = {}
    for run in results.runs:
        asked = run.summary.get("dataset_version") or run.config.get("dataset_version") or None
        try:
            manifest = load_manifest(store, run.dataset, asked)
        except DrrhoError as error:
            notes.append(f"The data of run '{run.name}' cannot be shown: {error}")
            continue
        if run.summary.get("dataset_id", manifest.id) == manifest.id:
            manifests[run.name] = manifest
        else:
            notes.append(f"The data of run '{run.name}' cannot be shown: '{run.dataset}' was made anew after the run.")
    return manifests


def _galleries(
    config: ReportConfig, store: Store, results: Results, manifests: dict[str, Manifest], notes: list[str]
) -> list[Gallery]:
    """A gallery for each run whose method weighs by a reference and whose samples can be read."""
    steered = [run for run in results.runs if run.method in METHODS and METHODS[run.method].steered]
    if not steered or not config.gallery:
        return []
    from drrho_clip.data.reader import SampleReader

    count = min(config.gallery, MAX_TILES // (2 * len(steered)))
    galleries = []
    for run in progress(steered, what="gallery", total=len(steered), unit="run"):
        try:
            weights = load_weights(store, run.name)
        except DrrhoError as error:
            notes.append(f"The weights of run '{run.name}' cannot be shown: {error}")
            continue
        if weights is None:
            notes.append(f"Run '{run.name}' has left no weights (yet), so that there is no gallery of it.")
        elif weights.alike:
            notes.append(f"Run '{run.name}' weighs all of its samples alike, so that there is no gallery of it.")
        elif run.name in manifests:
            manifest = manifests[run.name]
            galleries.append(make_gallery(SampleReader(store, manifest), manifest, run.name, weights, count))
    return galleries
