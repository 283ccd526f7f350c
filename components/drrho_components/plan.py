"""The component `plan`: which workers share the shards of a reference's features."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    dataset: str = "openmoji",
    workers: int = 1,
) -> list[int]:
    """Return the numbers of the workers beside worker 0, which is the step itself: no more than there are shards."""
    arguments = dict(locals())
    from drrho_clip.reference import ReferenceConfig, other_workers
    from drrho_clip.storage import open_store
    from drrho_components.steps import settings, step

    with step("plan", arguments):
        return other_workers(settings(ReferenceConfig, arguments), open_store(store))
