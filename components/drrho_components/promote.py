"""The component `promote`: the new run takes the place of the promoted one where it is better."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    metrics: dsl.Output[dsl.Metrics],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    lease: str = "",
    name: str = "continual",
    run: str = "",
    dataset: str = "openmoji",
    metric: str = "mean_recall_at_5",
    margin: float = 0.0,
    split: str = "heldout",
    candidates: str = "split",
    classnames: str = "dataset",
    batch_size: int = 256,
    precision: str = "fp32",
    decode_threads: int = 0,
) -> NamedTuple("Outputs", [("promoted", str), ("why", str)]):  # type: ignore[valid-type]
    """Evaluate both on the newest version of the dataset and decide; the lease is given back."""
    arguments = dict(locals())
    from drrho_clip.continual import PromoteConfig
    from drrho_clip.continual import promote as decide
    from drrho_clip.storage import open_store
    from drrho_components.steps import settings, step

    with step("promote", arguments) as kept:
        decision = decide(settings(PromoteConfig, arguments), open_store(store))
        metrics.log_metric("promoted", int(decision.promoted))
        metrics.log_metric(decision.metric, decision.value)
        if decision.previous_value is not None:
            metrics.log_metric(f"previous_{decision.metric}", decision.previous_value)
        if kept is not None:
            kept.finished()
        return "yes" if decision.promoted else "no", decision.why
