"""How the scores of a run's checkpoints on a suite rise with the samples seen: one SVG file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drrho_clip.evaluation.suite import SuiteResult
from drrho_clip.report.plots import COLOURS, Curve, Plot, draw
from drrho_clip.report.svg import to_svg

if TYPE_CHECKING:
    from drrho_clip.storage import Store


def suite_plot(result: SuiteResult) -> Plot | None:
    """The mean, and each task where they are few, against the samples seen; None where no model says how many it has seen."""
    models = [(model.samples_seen, model) for model in result.models if model.samples_seen is not None]
    if not models:
        return None
    curves = [Curve(result.mean_name, 0, [(seen, model.mean) for seen, model in models])]
    tasks = models[0][1].tasks
    if 1 < len(tasks) < COLOURS:
        for number, task in enumerate(tasks):
            points = [(seen, model.tasks[number].value) for seen, model in models]
            curves.append(Curve(f"{task.task} ({task.metric})", number + 1, points, dashed=True))
    title = f"{result.suite}: {result.name}"
    return draw(curves, title=title, x_label="samples seen", unit="share", zero=True)


def write_suite_plot(result: SuiteResult, key: str, store: Store) -> list[str]:
    """Draw the plot beside the result under `key`; return the key of the file, or none where there is nothing to draw."""
    plot = suite_plot(result)
    if plot is None:
        return []
    store.write(f"{key}.svg", to_svg(plot).encode())
    return [f"{key}.svg"]
