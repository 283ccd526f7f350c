"""The component `arrivals`: whether a dataset holds anything that was not trained on yet."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def arrivals(
    store: str,
    store_endpoint: str = "",
    lease: str = "",
    run: str = "continual",
    dataset: str = "openmoji",
    dataset_version: int = 0,
) -> NamedTuple("Outputs", [("Output", str), ("run", str), ("initial", str), ("why", str)]):  # type: ignore[valid-type]
    """Name the run to train and what it starts from: "yes", or "no" where nothing is new, and the lease is given back."""
    arguments = dict(locals())
    from drrho_clip.continual import find_work
    from drrho_clip.storage import open_store
    from drrho_components.steps import skipped, step

    with step("arrivals", arguments) as kept:
        work = find_work(run, dataset, int(dataset_version), open_store(store))
        if work.run:
            return "yes", work.run, work.initial, work.why
        skipped(work.why)
        if kept is not None:
            kept.finished()
        return "no", "", "", work.why
