"""The HTML page: results, weights and notes become one self-contained file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import jinja2

from drrho_clip.report.facts import DatasetFacts, measured_on, reference_facts, run_facts, run_labels, settings
from drrho_clip.report.gallery import Gallery
from drrho_clip.report.plots import COLOURS, FRAME, training_plots
from drrho_clip.report.results import Results
from drrho_clip.report.table import COLUMNS, best_rows, comparison_table, largest_values


@dataclass(frozen=True)
class Page:
    """Everything that the template shows; strings are plain text."""

    title: str
    results: Results
    datasets: Sequence[DatasetFacts]
    galleries: Sequence[Gallery]
    notes: Sequence[str]
    sources: Sequence[str]
    versions: Mapping[str, str]
    written: datetime

    @property
    def lead(self) -> str:
        """One sentence under the heading."""
        runs = self.results.runs
        titles = list(dict.fromkeys(run.title for run in runs))
        trained = ", ".join(dict.fromkeys(run.dataset for run in runs if run.dataset)) or "an unknown dataset"
        reference = ", ".join(reference.name for reference in self.results.references)
        beside = f"; reference {reference}" if reference else ""
        return f"{' and '.join(filter(None, (', '.join(titles[:-1]), titles[-1])))}, trained on {trained}{beside}"

    @property
    def evaluated(self) -> str:
        """What the scores were measured on."""
        return measured_on(self.results)

    @property
    def notices(self) -> list[str]:
        """Credit and licence of the pictures that are shown, each once."""
        return list(dict.fromkeys(gallery.notice for gallery in self.galleries if gallery.notice))


def templates() -> jinja2.Environment:
    """The templates of every page: autoescaped, and strict about names."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("drrho_clip.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(page: Page) -> str:
    """Return the page as HTML: autoescaped, so that no caption, name or setting is ever markup."""
    runs = page.results.runs
    labels = run_labels(runs)
    rows = comparison_table(page.results)
    columns = [column for column in COLUMNS if any(column.key in row.values for row in rows)]
    same, different = settings(runs)
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            page=page,
            script="",
            script_hash="",
            rows=rows,
            columns=columns,
            best=best_rows(rows),
            largest=largest_values(rows),
            labels=labels,
            colour={run.name: number % COLOURS for number, run in enumerate(runs)},
            plots=training_plots([(labels[run.name], run.metrics) for run in runs]),
            frame=FRAME,
            same=same,
            different=different,
            facts=run_facts(runs),
            reference_facts=reference_facts,
        )
    )
