"""Tune every method of the demo (or of a YAML file like it) with the same effort, on the training and validation splits alone.

    python experiments/temperatures.py --folder lab
    python experiments/temperatures.py --folder lab --config examples/clipart/clipart.yaml --data pictures

Six settings per method, one seed that no result uses (100): the temperature at the start for OpenCLIP and FastCLIP, which learn
it; temperature and eps for DRRho-CLIP. The measure is the mean of R@5 both ways among the validation samples. Runs that are done
are found, so it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from drrho_clip.config import RunConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.evaluation import EvaluateConfig, evaluate
from drrho_clip.observe import configure_logs
from drrho_clip.reference import compute_reference
from drrho_clip.storage import Store, open_store
from drrho_clip.training import train
from drrho_pipelines.settings import DemoSettings, load_demo

SEED = 100
STARTS = (0.03, 0.05, 0.07, 0.1, 0.2, 0.3)
GRID: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "openclip": tuple({"temperature": start} for start in STARTS),
    "fastclip": tuple({"temperature": start} for start in STARTS),
    "drrho": tuple(
        {"temperature": temperature, "eps": eps}
        for temperature, eps in ((0.05, 0.1), (0.1, 0.01), (0.1, 0.1), (0.1, 1.0), (0.2, 0.1), (0.2, 1.0))
    ),
}


def main() -> None:
    """Prepare the data and the reference, train the grid, print the validation results, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where data and runs are kept")
    parser.add_argument("--config", type=Path, help="settings of the demo to tune")
    parser.add_argument("--data", help="the pictures, where the settings need a path")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="trainings at a time, one thread each")
    arguments = parser.parse_args()
    configure_logs(level="warning")
    settings = load_demo(arguments.config, data=arguments.data, seed=SEED)
    store = open_store(arguments.folder)
    configs = dict(_grid(settings, store))
    _prepare(settings, next(iter(configs.values())), store)
    os.environ["OMP_NUM_THREADS"] = "1"  # the trainings are processes that inherit it
    with ThreadPoolExecutor(arguments.parallel) as pool:
        scores = dict(zip(configs, pool.map(lambda config: _score(config, store), configs.values()), strict=True))
    print("method and setting                   R@5 image->text   R@5 text->image   mean")
    for label, (to_text, to_image) in sorted(scores.items(), key=lambda item: -sum(item[1])):
        print(f"{label:36} {to_text:15.1%} {to_image:17.1%} {(to_text + to_image) / 2:6.1%}")


def _grid(settings: DemoSettings, store: Store) -> Iterator[tuple[str, RunConfig]]:
    """Every method's settings in turn, so that an early end leaves all methods equally far."""
    for row in zip(*GRID.values(), strict=True):
        for method, values in zip(GRID, row, strict=True):
            tuned = settings.model_copy(update={"methods": {method: {**settings.methods[method], **values}}})
            config = tuned.method_config(store.uri, method)
            label = "-".join([method, *(f"{key}{value:g}" for key, value in values.items())])
            run = f"{settings.name}-tune-{label}"
            yield label, config.model_copy(update={"run": run, "train": config.train.model_copy(update={"run": run})})


def _prepare(settings: DemoSettings, config: RunConfig, store: Store) -> None:
    clean = settings.reference_config(store.uri)
    ingest(config.ingest, store)
    ingest(clean.ingest, store)
    train(clean.train, store)
    assert config.reference is not None, "every run of the demo has a reference"
    compute_reference(config.reference, store)


def _score(config: RunConfig, store: Store) -> tuple[float, float]:
    train(config.train, store)
    evaluation = EvaluateConfig.parse({"run": config.run, "dataset": config.dataset, "split": "validation"})
    result = evaluate(evaluation, store).scalars()
    return result["image_to_text_recall_at_5"], result["text_to_image_recall_at_5"]


if __name__ == "__main__":
    main()
