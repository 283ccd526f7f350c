"""The component `study_report`: what came out of a study, as JSON, CSV and one self-contained HTML page."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def study_report(
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    store: str,
    store_endpoint: str = "",
    study: str = "",
    runs: list[str] = [],  # noqa: B006 (kfp reads it, nobody changes it)
) -> str:
    """Write the report of a study and return its URI; `runs` are those that it waited for. The measure's means are metrics."""
    arguments = dict(locals())
    from drrho_clip.storage import layout, open_store
    from drrho_clip.studies.plan import load_plan
    from drrho_clip.studies.summary import summarise
    from drrho_components.steps import step

    with step("study-report", arguments):
        opened = open_store(store)
        result = summarise(load_plan(study, opened), opened)
        for arm in result.arms:
            metrics.log_metric(f"{arm.arm.name}_{result.measure}", arm.means[result.measure].mean)
        key = layout.study_result(study, "html")
        opened.download(key, page.path)
        page.metadata["uri"] = opened.uri_of(key)
        return opened.uri_of(key)
