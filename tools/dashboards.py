"""Draw the dashboards of k8s/monitoring/ from real series, where no Grafana is at hand: `tools/dashboards.py --help`.

Every panel's expressions are asked of a running Prometheus; the pictures are ours, not Grafana's.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from drrho_clip.report.plots import HEIGHT, LEFT, RIGHT, WIDTH, Curve, Plot, draw

ROOT = Path(__file__).resolve().parents[1]
BOARDS = ROOT / "k8s/monitoring/dashboards"
IMAGES = ROOT / "docs/images"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
COLUMNS, POINTS, MARGIN, TITLE, LEGEND_LINE = 2, 150, 16, 28, 16
STYLE = "text{font-family:'DejaVu Sans',Verdana,sans-serif;font-size:11px;fill:#333}.title{font-size:14px;font-weight:bold}"


def main() -> None:
    """Draw both dashboards: docs/images/dashboard-run.svg and dashboard-runs.svg."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its address")
    parser.add_argument("--run", required=True, help="the run of the dashboard of one run")
    parser.add_argument("--minutes", type=float, default=60, help="how far back the graphs go")
    parser.add_argument("--until", type=float, default=time.time(), help="where they end, in Unix seconds; now")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    options = parser.parse_args()
    for name in ("run", "runs"):
        board = json.loads((BOARDS / f"{name}.json").read_text(encoding="utf-8"))
        path = options.out / f"dashboard-{name}.svg"
        path.write_text(picture(board, options), encoding="utf-8")
        print(path)


def picture(board: Mapping[str, Any], options: argparse.Namespace) -> str:
    """The dashboard as SVG, two panels a row."""
    plots = [plot_of(panel, options) for panel in board["panels"]]
    cell = HEIGHT + TITLE + LEGEND_LINE * max(_legend_lines(plot) for plot in plots) + MARGIN
    rows = -(-len(plots) // COLUMNS)
    width, height = COLUMNS * (WIDTH + MARGIN) + MARGIN, rows * cell + TITLE + 2 * MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    parts = [head, f"<style>{STYLE}</style>", f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>']
    run = f", {options.run}" if "$run" in json.dumps(board) else ""
    note = "drawn by tools/dashboards.py from the series of a real Prometheus"
    parts.append(f'<text class="title" x="{MARGIN}" y="{MARGIN + 10}">{escape(board["title"] + run)}</text>')
    parts.append(f'<text x="{width - MARGIN}" y="{MARGIN + 10}" text-anchor="end">{note}</text>')
    for number, plot in enumerate(plots):
        x = MARGIN + number % COLUMNS * (WIDTH + MARGIN)
        y = TITLE + MARGIN + number // COLUMNS * cell
        parts += [f'<g transform="translate({x},{y})">', *_panel(plot, cell - MARGIN), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def plot_of(panel: Mapping[str, Any], options: argparse.Namespace) -> Plot:
    """One panel, its series over minutes; SystemExit where an expression has none."""
    curves: list[Curve] = []
    for target in panel["targets"]:
        expression = target["expr"].replace("$run", options.run)
        for labels, points in series(expression, options):
            legend = re.sub(r"\{\{(\w+)\}\}", lambda match, own=labels: own.get(match[1], ""), target["legendFormat"])
            curves.append(Curve(legend, len(curves) % len(COLOURS), points))
    if not curves:
        raise SystemExit(f"Prometheus has no series for the panel '{panel['title']}'")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    return draw(curves, title=panel["title"], unit="" if unit == "none" else unit, x_label="minutes")


def series(expression: str, options: argparse.Namespace) -> Iterator[tuple[dict[str, str], list[tuple[float, float]]]]:
    """The series of an expression: labels, and (minutes since the start, value); values that are no numbers are left out."""
    seconds = options.minutes * 60
    start = options.until - seconds
    query = {"query": expression, "start": start, "end": options.until, "step": max(1.0, seconds / POINTS)}
    address = f"{options.prometheus.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    for one in found:
        points = [((at - start) / 60, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")]
        if points:
            yield one["metric"], points


def _panel(plot: Plot, height: float) -> Iterator[str]:
    unit = f" ({plot.unit})" if plot.unit else ""
    yield f'<rect width="{WIDTH}" height="{height}" fill="#fff" stroke="#ddd"/>'
    yield f'<text class="title" x="10" y="19">{escape(plot.title + unit)}</text>'
    yield f'<g transform="translate(0,{TITLE})">'
    for tick in plot.y_ticks:
        yield f'<path d="M{LEFT},{tick.at}H{WIDTH - RIGHT}" stroke="#e5e5e5"/>'
        yield f'<text x="{LEFT - 6}" y="{tick.at + 4}" text-anchor="end">{tick.label}</text>'
    for tick in plot.x_ticks:
        yield f'<text x="{tick.at}" y="{HEIGHT - 22}" text-anchor="middle">{tick.label}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{plot.x_label}</text>'
    for line in plot.lines:
        yield f'<path d="{line.path}" fill="none" stroke="{COLOURS[line.colour]}" stroke-width="2" stroke-linecap="round"/>'
    yield "</g>"
    for row, column, (colour, label) in _legend(plot):
        x, y = 12 + column * (WIDTH / 2), TITLE + HEIGHT + 4 + row * LEGEND_LINE
        yield f'<path d="M{x},{y - 4}h14" stroke="{COLOURS[colour]}" stroke-width="3"/>'
        yield f'<text x="{x + 20}" y="{y}">{escape(label)}</text>'


def _legend(plot: Plot) -> Iterator[tuple[int, int, tuple[int, str]]]:
    for number, entry in enumerate(plot.colours):
        yield number // 2, number % 2, entry


def _legend_lines(plot: Plot) -> int:
    return -(-len(plot.colours) // 2)


if __name__ == "__main__":
    main()
