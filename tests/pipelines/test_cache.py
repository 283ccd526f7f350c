"""Steps that look at data by its name see what has changed there, with caching on and equal parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from kfp import compiler, dsl
from PIL import Image

from drrho_clip.data.manifest import load_manifest
from drrho_clip.storage import Store, open_store
from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.steering import INGEST

RUN = """
import json, sys
from kfp import components, local
job = json.loads(sys.argv[1])
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=job["root"], enable_caching=True)
components.load_component_from_file(job["pipeline"])(**job["parameters"])
"""


@dsl.pipeline(name="two-ingests")
@flat_parameters((INGEST,), defaults={})
def two_ingests(parameters: Parameters) -> None:
    """The step as it is, and as it must not be."""
    parameters.task(INGEST, dataset="seen")
    parameters.task(replace(INGEST, cached=True), dataset="stale")


def draw(folder: Path, first: int, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (16, 16), (number, 255 - number, 100)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"colour number {number}")


@pytest.mark.parametrize("source", ["folder", "s3"])
def test_rows_that_were_added_under_the_same_name_are_seen(source: str, tmp_path: Path, request: pytest.FixtureRequest):
    store: Store = request.getfixturevalue("folder_store" if source == "folder" else "s3_store")
    pictures = tmp_path / "pictures"
    compiler.Compiler().compile(two_ingests, str(tmp_path / "two.yaml"))
    given = _place(source, pictures, store)
    parameters = {"store": store.uri, "data_workers": 1, **given}
    job = {"pipeline": str(tmp_path / "two.yaml"), "root": str(tmp_path / "root"), "parameters": parameters}
    totals = []
    for first, count in ((0, 20), (20, 3)):
        draw(pictures, first, count)
        if source == "s3":
            _upload_table(pictures, store)
        subprocess.run([sys.executable, "-c", RUN, json.dumps(job)], check=True, capture_output=True)
        totals.append([load_manifest(store, dataset).total for dataset in ("seen", "stale")])
    assert totals == [[20, 20], [23, 20]]  # the second shows that the cache was on


def _place(source: str, pictures: Path, store: Store) -> dict[str, str]:
    if source == "folder":
        return {"data_source": "folder", "data_path": str(pictures)}
    return {"data_source": "table", "data_path": store.uri_of("list.csv")}


def _upload_table(pictures: Path, store: Store) -> None:
    rows = [f"{path.resolve()},{path.with_suffix('.txt').read_text()}" for path in sorted(pictures.glob("*.png"))]
    open_store(store.uri).write("list.csv", "\n".join(["image,caption", *rows]).encode())
