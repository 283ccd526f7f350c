"""Steps that look at data by its name see what has changed there, with caching on and equal parameters."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from kfp import compiler, dsl
from PIL import Image

from drrho_clip.data.manifest import load_manifest
from drrho_clip.storage import Store
from drrho_pipelines.ingest import INGEST
from drrho_pipelines.parameters import Parameters, flat_parameters

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


@pytest.mark.parametrize("kind", ["folder_store", "s3_store"])
def test_rows_that_were_added_under_the_same_name_are_seen(kind: str, tmp_path: Path, request: pytest.FixtureRequest):
    store: Store = request.getfixturevalue(kind)
    pictures = tmp_path / "pictures"
    compiler.Compiler().compile(two_ingests, str(tmp_path / "two.yaml"))
    shards = {"data_source": "shards", "data_path": store.uri_of("given")}
    data = shards if kind == "s3_store" else {"data_source": "folder", "data_path": str(pictures)}
    parameters = {"store": store.uri, "data_workers": 1, **data}
    job = {"pipeline": str(tmp_path / "two.yaml"), "root": str(tmp_path / "root"), "parameters": parameters}
    totals = []
    for first, count in ((0, 20), (20, 3)):
        draw(pictures, first, count)
        store.write(f"given/{first:06d}.tar", packed(pictures, first, count))
        subprocess.run([sys.executable, "-c", RUN, json.dumps(job)], check=True, capture_output=True)
        totals.append([load_manifest(store, dataset).total for dataset in ("seen", "stale")])
    assert totals == [[20, 20], [23, 20]]  # the second shows that the cache was on


def packed(pictures: Path, first: int, count: int) -> bytes:
    """These pictures and captions as a tar."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for number in range(first, first + count):
            for ending in ("png", "txt"):
                tar.add(pictures / f"{number}.{ending}", f"{number:06d}.{ending}")
    return data.getvalue()
