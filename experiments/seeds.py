"""The tables of docs/results.md: the demo (or a YAML file like it) over several seeds, mean and standard error, as Markdown.

    python experiments/seeds.py --folder results
    python experiments/seeds.py --folder results --config examples/clipart/clipart.yaml --data pictures

Every seed trains a reference and all methods of its own on the same dataset; what is done is found.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from drrho_clip.observe import configure_logs
from drrho_clip.report import comparison_table, load_results
from drrho_clip.report.table import COLUMNS, Column, Measured, Row
from drrho_clip.storage import Store, open_store
from drrho_pipelines.demo import run_demo
from drrho_pipelines.settings import DemoSettings, load_demo


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where data, runs and reports are kept")
    parser.add_argument("--config", type=Path, help="settings of the demo to run")
    parser.add_argument("--data", help="the pictures, where the settings need a path")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    arguments = parser.parse_args()
    configure_logs(level="warning")
    store = open_store(str(arguments.folder / "store"))
    tables = []
    for seed in map(int, arguments.seeds.split(",")):
        settings = load_demo(arguments.config, data=arguments.data, seed=seed)
        run_demo(settings, store.uri, arguments.folder)
        tables.append(_table(settings, store))
    print(markdown(tables))


def markdown(tables: Sequence[Sequence[Row]]) -> str:
    """One table of the rows of several, which are in the same order; ± is the standard error of the mean over them."""
    columns = [column for column in COLUMNS if any(column.key in row.values for row in tables[0])]
    lines = [
        "| " + " | ".join(["", *(" ".join(column.heading).strip() for column in columns)]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for rows in zip(*tables, strict=True):
        cells = [Row(rows[0].model, "", False, _means(rows, column)).cell(column) for column in columns]
        lines.append("| " + " | ".join([rows[0].model, *cells]) + " |")
    return "\n".join(lines)


def _table(settings: DemoSettings, store: Store) -> list[Row]:
    config = settings.comparison_config(store.uri)
    return comparison_table(load_results(store, config.run_names, dataset=config.dataset, split=config.split))


def _means(rows: Sequence[Row], column: Column) -> dict[str, Measured]:
    values = [row.values[column.key].value for row in rows if column.key in row.values]
    if not values:
        return {}
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {column.key: Measured(statistics.fmean(values), error)}


if __name__ == "__main__":
    main()
