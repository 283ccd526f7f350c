"""The component `split`: which groups share an ingest."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def split(store: str, store_endpoint: str = "", groups: int = 1) -> list[int]:
    """Return the numbers of the groups beside group 0, which is the step itself."""
    arguments = dict(locals())
    from drrho_clip.data.config import IngestConfig
    from drrho_components.steps import settings, step

    with step("split", arguments):
        return list(range(1, settings(IngestConfig, arguments).groups))
