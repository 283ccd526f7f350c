"""Run one benchmark (one JSON line) or all of them (a table as well)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.activations import activations
from benchmarks.checkpoint import checkpoint_stall
from benchmarks.download import download_rate
from benchmarks.download_memory import download_memory
from benchmarks.loading import decode_rate, reference_rate
from benchmarks.loss import loss_memory, loss_time
from benchmarks.planning import planning
from benchmarks.reading import read_rate, webdataset_rate
from benchmarks.step import step_time
from benchmarks.ustate import ustate_time

BENCHMARKS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "loss-time": loss_time,
    "loss-memory": loss_memory,
    "step": step_time,
    "activations": activations,
    "ustate": ustate_time,
    "download": download_rate,
    "download-memory": download_memory,
    "planning": planning,
    "checkpoint": checkpoint_stall,
    "read": read_rate,
    "read-webdataset": webdataset_rate,
    "decode": decode_rate,
    "reference": reference_rate,
}


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, "all"], default="all")
    name = parser.parse_args().name
    results = [run(each) for each in BENCHMARKS if name in (each, "all")]
    if name == "all":
        for result in results:
            print(f"{result['name']:16} {result['ratio']:6.2f}  goal {result['goal']:<5}  {result['compared']}", file=sys.stderr)


def run(name: str) -> dict[str, Any]:
    """Measure one and print its line."""
    versions = {"torch": torch.__version__, "drrho-clip": version("drrho-clip"), "threads": torch.get_num_threads()}
    result = {"name": name, **BENCHMARKS[name](), "versions": versions}
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()
