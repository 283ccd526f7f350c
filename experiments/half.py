"""Half of the data with a reference against all of it without, at equal samples seen (arXiv 2505.06699, figure 3).

    python experiments/half.py --folder results --config examples/clipart/clipart.yaml --data pictures

FastCLIP and DRRho-CLIP, each on all of the training split and on one half of it (the same for every seed), three seeds,
everything else as in the config. What experiments/seeds.py left in the same folder is found.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from drrho_clip.config import RunConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.evaluation import evaluate
from drrho_clip.observe import configure_logs
from drrho_clip.reference import compute_reference
from drrho_clip.storage import Store, open_store
from drrho_clip.training import train
from drrho_pipelines.settings import load_demo

METHODS, SEEDS, FRACTIONS = ("fastclip", "drrho"), (0, 1, 2), (1.0, 0.5)
MEASURES = ("image_to_text_recall_at_1", "image_to_text_recall_at_5", "text_to_image_recall_at_1", "text_to_image_recall_at_5")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where data and runs are kept")
    parser.add_argument("--config", type=Path, help="settings of the demo to run")
    parser.add_argument("--data", help="the pictures, where the settings need a path")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="trainings at a time, one thread each")
    arguments = parser.parse_args()
    configure_logs(level="warning")
    store = open_store(str(arguments.folder / "store"))
    os.environ["OMP_NUM_THREADS"] = "1"  # the trainings are processes that inherit it
    with ThreadPoolExecutor(arguments.parallel) as pool:
        cells = {
            (method, fraction, seed): pool.submit(run, _config(arguments, store, method, fraction, seed), store)
            for seed in SEEDS
            for fraction in FRACTIONS
            for method in METHODS
        }
    for method in METHODS:
        for fraction in FRACTIONS:
            rows = [cells[method, fraction, seed].result() for seed in SEEDS]
            print(f"{method:10} {fraction:4.0%}", *(_mean([row[measure] for row in rows]) for measure in MEASURES))


def run(config: RunConfig, store: Store) -> dict[str, float]:
    """Train and evaluate one cell."""
    assert config.reference is not None, "every run of the demo has a reference"
    ingest(config.ingest, store)
    compute_reference(config.reference, store)
    train(config.train, store)
    return evaluate(config.evaluate, store).scalars()


def _config(arguments: argparse.Namespace, store: Store, method: str, fraction: float, seed: int) -> RunConfig:
    settings = load_demo(arguments.config, data=arguments.data, seed=seed)
    config = settings.method_config(store.uri, method)
    if fraction == 1:
        return config
    name = f"{config.run}-{fraction:g}"
    trained = config.train.model_copy(update={"run": name, "data_fraction": fraction})
    return config.model_copy(update={"run": name, "train": trained, "evaluate": config.evaluate.model_copy(update={"run": name})})


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):6.1%} ± {statistics.stdev(values) / math.sqrt(len(values)):.1%}"


if __name__ == "__main__":
    main()
