"""The component `begin`: one run of a schedule at a time."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def begin(
    store: str,
    store_endpoint: str = "",
    run: str = "continual",
    holder: str = "",
    minutes: float = 60.0,
) -> NamedTuple("Outputs", [("Output", str), ("lease", str)]):  # type: ignore[valid-type]
    """Take the lease of `run` for this execution (`holder`): "yes", or "no" where an earlier one still works.

    What a condition looks at is called Output: under kfp.local it finds no output of another name.
    """
    arguments = dict(locals())
    from drrho_clip.continual import LeaseConfig
    from drrho_clip.storage import layout, open_store
    from drrho_clip.storage.lease import take_lease
    from drrho_components.steps import settings, skipped, step

    with step("begin", arguments):
        seconds = settings(LeaseConfig, arguments).minutes * 60
        lease = take_lease(open_store(store), layout.lease(run), holder, seconds)
        if lease.holder != holder:
            skipped(f"the previous run, {lease.holder}, still works: it holds the lease of '{run}'")
            return "no", ""
        return "yes", f"{run}:{holder}:{seconds:g}"
