"""Does the advisor's ranking match the one after full training, and how close are its settings to the best of a grid?

    python experiments/advice.py ranking --folder lab --config examples/clipart/clipart.yaml --data pictures
    python experiments/advice.py grid --folder lab --config experiments/mdi.yaml --data icons

`ranking` makes four references (trained on the clean part; the same for a tenth of the time; trained on the exchanged captions;
trained on generated scenes), asks the advisor, and trains DRRho-CLIP with each, at the settings that the advisor chose, and
FastCLIP without any. `grid` trains DRRho-CLIP with the first of them at several settings, and at the advisor's; then the best
three and the advisor's again with other seeds, since the best of many is partly luck. The measure is the mean of R@5 both ways
among the validation samples; runs that are done are found.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from drrho_clip.config import RunConfig
from drrho_clip.data.config import IngestConfig
from drrho_clip.data.ingest import ingest
from drrho_clip.evaluation import EvaluateConfig, evaluate
from drrho_clip.observe import configure_logs
from drrho_clip.reference import ReferenceConfig, compute_reference
from drrho_clip.storage import Store, open_store
from drrho_clip.studies import AdviseConfig
from drrho_clip.studies.advisor import advise
from drrho_clip.training import TrainConfig, train
from drrho_pipelines.settings import DemoSettings, load_demo

SEED = 100
AUTO: Mapping[str, Any] = {"temperature": "auto", "eps": "auto"}
TEMPERATURES = (0.07, 0.1, 0.15, 0.2, 0.3)
EPS = (0.01, 0.1, 1.0)
AGAIN, BEST = (101, 102), 3


def main() -> None:
    """Prepare the data, then one of the two questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=("ranking", "grid"))
    parser.add_argument("--folder", required=True, help="where data and runs are kept")
    parser.add_argument("--config", type=Path, required=True, help="settings of the demo")
    parser.add_argument("--data", required=True, help="the pictures")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="trainings at a time, one thread each")
    arguments = parser.parse_args()
    configure_logs(level="warning")
    settings = load_demo(arguments.config, data=arguments.data, seed=SEED)
    store = open_store(arguments.folder)
    ingest(settings.method_config(store.uri, "drrho").ingest, store)
    os.environ["OMP_NUM_THREADS"] = "1"  # the trainings are processes that inherit it
    with ThreadPoolExecutor(arguments.parallel) as pool:
        (ranking if arguments.question == "ranking" else grid)(settings, store, pool)


def ranking(settings: DemoSettings, store: Store, pool: ThreadPoolExecutor) -> None:
    """Four references: what the advisor says of each, and what training with it gives."""
    planned = settings.method_config(store.uri, "drrho").train
    configs = references(settings, store)
    runs = list(pool.map(lambda config: train(config, store).run, configs))
    names = [_features(settings, run, store) for run in runs]
    advice = advise(AdviseConfig(references=",".join(names)), planned, store)
    trained = {name: _config(settings, store, f"by-{name}", name, **AUTO) for name in names}
    without = {"run": f"{settings.name}-advice-none", "reference": ""}
    trained["none"] = settings.method_config(store.uri, "fastclip").train.model_copy(update=without)
    scores = dict(zip(trained, pool.map(lambda config: score(config, store), trained.values()), strict=True))
    print(f"pilot: {advice.pilot_samples} samples, {advice.pilot_information:.2f} bits; FastCLIP: R@5 {scores['none']:.1%}")
    print("reference, bits, Var(l), Var(l - l_ref), explained, effective negatives, dropped, temperature, eps, helps, R@5")
    for found in advice.references:
        values = (found.information, found.variance, found.variance_minus_reference, found.explained, found.effective_negatives)
        numbers = " ".join(f"{value:8.3f}" for value in (*values, found.dropped, found.temperature, found.eps))
        print(f"{found.reference:34} {numbers} {found.helps!s:5} {scores[found.reference]:.1%}")


def references(settings: DemoSettings, store: Store) -> list[TrainConfig]:
    """The trainings of the references, all of one architecture."""
    clean = settings.reference_config(store.uri)
    ingest(clean.ingest, store)
    ingest(IngestConfig(dataset="scenes", source="scenes", samples=4000, image_size=32), store)
    changes: tuple[dict[str, Any], ...] = (
        {"run": f"{settings.name}-reference-clean"},
        {"run": f"{settings.name}-reference-early", "samples": clean.train.samples // 10, "warmup_steps": 5},
        {"run": f"{settings.name}-reference-exchanged", "dataset": settings.name},
        {"run": f"{settings.name}-reference-scenes", "dataset": "scenes", "samples": clean.train.samples // 2},
    )
    return [clean.train.model_copy(update=change) for change in changes]


def grid(settings: DemoSettings, store: Store, pool: ThreadPoolExecutor) -> None:
    """R@5 at every setting of the grid, and at the advisor's."""
    reference = _features(settings, train(references(settings, store)[0], store).run, store)
    labels: dict[str, Mapping[str, Any]] = {"auto": AUTO} | {
        f"{temperature:g}-{eps:g}": {"temperature": temperature, "eps": eps} for temperature in TEMPERATURES for eps in EPS
    }
    configs = [_config(settings, store, f"at-{label}", reference, **values) for label, values in labels.items()]
    scores = dict(zip(labels, pool.map(lambda config: score(config, store), configs), strict=True))
    ordered = sorted(scores, key=scores.__getitem__, reverse=True)
    for label in ordered:
        print(f"{label:12} {scores[label]:.1%}")
    best = [label for label in ordered if label != "auto"][:BEST]
    for label in ("auto", *best):
        again = [_config(settings, store, f"at-{label}-{seed}", reference, **labels[label], seed=seed) for seed in AGAIN]
        values = [scores[label], *pool.map(lambda config: score(config, store), again)]
        error = statistics.stdev(values) / math.sqrt(len(values))
        print(f"{label:12}", *(f"{value:.1%}" for value in values), f"mean {statistics.fmean(values):.1%} ± {error:.1%}")


def score(config: TrainConfig, store: Store) -> float:
    """Train and return the mean R@5 on the validation split."""
    train(config, store)
    evaluation = EvaluateConfig.parse({"run": config.run, "dataset": config.dataset, "split": "validation"})
    result = evaluate(evaluation, store).scalars()
    return (result["image_to_text_recall_at_5"] + result["text_to_image_recall_at_5"]) / 2


def _config(settings: DemoSettings, store: Store, label: str, reference: str, **values: Any) -> TrainConfig:
    planned: RunConfig = settings.method_config(store.uri, "drrho")
    plain = planned.train.model_dump(exclude={"temperature", "eps"})
    return TrainConfig.parse({**plain, "run": f"{settings.name}-advice-{label}", "reference": reference, **values})


def _features(settings: DemoSettings, run: str, store: Store) -> str:
    config = ReferenceConfig.parse({"dataset": settings.name, "model": f"run:{run}"})
    compute_reference(config, store)
    return config.reference_id


if __name__ == "__main__":
    main()
