"""The component `report`: one self-contained HTML page."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    page: dsl.Output[dsl.HTML],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    lease: str = "",
    runs: str = "drrho",
    dataset: str = "",
    split: str = "heldout",
    comparison: str = "",
    gallery: int = 12,
    title: str = "",
) -> str:
    """Write the report of one run, or of several side by side; returns its URI."""
    arguments = dict(locals())
    from drrho_clip.report import ReportConfig, write_report
    from drrho_clip.storage import open_store
    from drrho_components.steps import settings, step

    with step("report", arguments):
        opened = open_store(store)
        config = settings(ReportConfig, arguments)
        uri = write_report(config, opened)
        opened.download(config.key, page.path)
        page.metadata["uri"] = uri
        return uri
