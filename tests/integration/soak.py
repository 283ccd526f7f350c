"""Ingest, reference and training, killed at random again and again; whatever they leave in the end must equal undisturbed work.

    python tests/integration/soak.py --kills 100 --seed 0

Each step is a process that gets SIGKILL after a random part of half the time that it takes undisturbed, eight times in each
round; then it may end. After each round, of all three steps, everything in the store is read again (`drrho verify`) and compared
with what was made without a kill. Prints one JSON line for each kill and a summary.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from drrho_pipelines.seaweed import SeaweedServer

sys.path.append(str(Path(__file__).parents[1]))  # as a script; pytest has it
from run_records import untimed_records

STEPS = ("ingest", "reference", "train")
PRELOADED = [
    *(f"drrho_clip.{module}" for module in ("data.ingest", "models", "reference.work", "training.worker", "verification")),
    *("boto3", "open_clip", "pyarrow.parquet", "safetensors.torch", "webdataset"),
]
"""Or most kills would hit imports."""


def work(step: str, uri: str) -> None:
    """Do one step in this process, and end it with exit code 0."""
    os.environ["OMP_NUM_THREADS"] = "1"
    STEP_FUNCTIONS[step](uri)
    sys.stdout.flush()
    os._exit(0)


def ingest(uri: str) -> None:
    """Generated pictures in several shards."""
    from drrho_clip.data.config import IngestConfig
    from drrho_clip.data.ingest import ingest as step
    from drrho_clip.storage import open_store

    settings = {
        "dataset": "scenes",
        "source": "scenes",
        "samples": 400,
        "heldout_fraction": 0.2,
        "shard_samples": 40,
        "workers": 2,
    }
    step(IngestConfig.parse(settings), open_store(uri))


def reference(uri: str) -> None:
    """Features of an untrained model, the same for every store."""
    import torch

    from drrho_clip.models import create_model, save_export
    from drrho_clip.reference import ReferenceConfig, compute_reference
    from drrho_clip.storage import layout, open_store

    store = open_store(uri)
    torch.manual_seed(0)
    save_export(create_model("drrho-nano"), "drrho-nano", store, layout.export("public"))
    compute_reference(ReferenceConfig(dataset="scenes", model="run:public", name="ref"), store)


def train(uri: str) -> None:
    """Three epochs with a checkpoint every four steps."""
    from drrho_clip.storage import open_store
    from drrho_clip.training import TrainConfig
    from drrho_clip.training import train as step
    from drrho_clip.training.__main__ import main

    config = {"run": "run", "dataset": "scenes", "method": "drrho", "reference": "ref", "architecture": "drrho-nano"}
    config |= {"batch_size": 32, "samples": 32 * 60, "warmup_steps": 2, "temperature": 0.1, "augmentation": "shift"}
    step(
        TrainConfig.parse({**config, "log_steps": 1, "checkpoint_steps": 4}),
        open_store(uri),
        launch=lambda command: _ended(main(command)),
    )


def _ended(code: int) -> None:
    if code:
        os._exit(code)


STEP_FUNCTIONS: dict[str, Callable[[str], None]] = {"ingest": ingest, "reference": reference, "train": train}


class Soak:
    """Rounds of the three steps in a store of their own each; `kills` counts by step."""

    def __init__(self, uri: str, seed: int, kills_a_step: int) -> None:
        self.uri, self.kills, self.rounds = uri, Counter[str](), 0
        self._kills_a_step = kills_a_step
        self._random = random.Random(seed)
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._seconds: dict[str, float] = {}
        self._expected: dict[str, Any] = {}

    def run(self, kills: int) -> None:
        """Kill as often as that, or a little more; AssertionError where something is left that should not be."""
        ready = self._context.Process(target=os.getpid)  # the first process waits for all imports
        ready.start()
        ready.join()
        for step in STEPS:
            began = time.monotonic()
            assert self._attempt(step, f"{self.uri}/undisturbed", None) == 0
            self._seconds[step] = time.monotonic() - began
        self._expected = self._results("undisturbed")
        while self.kills.total() < kills:
            self.rounds += 1
            name = f"round-{self.rounds}"
            for step in STEPS:
                self._to_the_end(step, f"{self.uri}/{name}")
            assert self._results(name) == self._expected, f"{name} differs from undisturbed work"

    def _to_the_end(self, step: str, uri: str) -> None:
        """Kill the step some times, then let it end."""
        for _ in range(self._kills_a_step):
            after = self._random.uniform(0, self._seconds[step] / 2)
            code = self._attempt(step, uri, after)
            if code == 0:
                return
            assert code == -signal.SIGKILL, f"{step} ended with {code}"
            self.kills[step] += 1
            print(json.dumps({"killed": step, "after": round(after, 2), "store": uri.rpartition("/")[2]}), flush=True)
        assert self._attempt(step, uri, None) == 0, f"{step} did not end as it should"

    def _attempt(self, step: str, uri: str, after: float | None) -> int | None:
        """Exit code of a process that works on `step` and is killed after so many seconds."""
        process = self._context.Process(target=work, args=(step, uri))
        process.start()
        process.join(after)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode

    def _results(self, name: str) -> dict[str, Any]:
        """What is in a store, where it is sound: all that must not depend on kills."""
        from drrho_clip.data.manifest import load_manifest
        from drrho_clip.data.reference_manifest import load_reference_manifest
        from drrho_clip.models.export import exported_sha256
        from drrho_clip.storage import layout, open_store
        from drrho_clip.verification import verify_dataset, verify_run

        store = open_store(f"{self.uri}/{name}")
        for found in (verify_dataset(store, "scenes"), verify_run(store, "run")):
            assert found.problems == []
        return {
            "dataset": load_manifest(store, "scenes").model_dump(),
            "features": [shard.features_sha256 for shard in load_reference_manifest(store, "scenes", "ref").shards],
            "model": exported_sha256("run", store),
            "metrics": untimed_records(store, "run"),
            "weights": store.read(layout.run_weights("run")),
        }

    def summary(self) -> dict[str, Any]:
        """Figures for people."""
        return {"kills": self.kills.total(), **self.kills, "rounds": self.rounds, "seconds_undisturbed": self._seconds}


def main() -> None:
    """Run it against a SeaweedFS of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-a-step", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, SeaweedServer(Path(folder)) as server:
        os.environ |= server.environment
        soak = Soak(server.store_uri, arguments.seed, arguments.kills_a_step)
        soak.run(arguments.kills)
        print(json.dumps(soak.summary()))


if __name__ == "__main__":
    main()
