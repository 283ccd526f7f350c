"""The end of a study: its result as JSON, CSV, one HTML page, and the plots of that as files of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drrho_clip.errors import DrrhoError
from drrho_clip.evaluation import evaluate
from drrho_clip.observe import get_logger
from drrho_clip.report.study import render_study
from drrho_clip.report.svg import to_svg
from drrho_clip.storage import layout
from drrho_clip.studies.page import study_page
from drrho_clip.studies.plan import Plan
from drrho_clip.studies.results import StudyResult, collect

if TYPE_CHECKING:
    from drrho_clip.storage import Store


def summarise(plan: Plan, store: Store) -> StudyResult:
    """Write what came out of a study so far, and return it; derived, so that an older result is replaced.

    A reference that cannot be evaluated (its public model cannot be had, say) is named in the page and left without scores.
    """
    notes = _evaluate_references(plan, store)
    result, results = collect(plan, store)
    page = study_page(result, results, store, notes)
    contents = {"json": result.model_dump_json(indent=1) + "\n", "csv": result.to_csv(), "html": render_study(page)}
    files = {layout.study_result(plan.name, ending): text for ending, text in contents.items()}
    files |= {layout.study_plot(plan.name, number): to_svg(plot) for number, plot in enumerate(page.plots, start=1)}
    for key, text in files.items():
        store.write(key, text.encode(errors="backslashreplace"))
    uri = store.uri_of(layout.study_result(plan.name, "html"))
    get_logger().info("study_written", study=plan.name, uri=uri, missing=len(result.missing), claims=list(page.claims))
    return result


def _evaluate_references(plan: Plan, store: Store) -> list[str]:
    notes = []
    for name in dict.fromkeys(str(arm.overrides["reference"]) for arm in plan.arms if arm.overrides["reference"]):
        if store.head(layout.reference_manifest(plan.dataset, name)) is None:
            continue
        try:
            evaluate(plan.evaluate.model_copy(update={"run": "", "reference": name}), store)
        except DrrhoError as error:
            notes.append(f"The reference '{name}' was not evaluated: {error}")
    return notes
