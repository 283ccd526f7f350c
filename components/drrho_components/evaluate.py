"""The component `evaluate`: zero-shot classification and retrieval of a run, and of its reference beside it."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    metrics: dsl.Output[dsl.Metrics],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    run: str = "",
    model: str = "",
    reference: str = "",
    dataset: str = "openmoji",
    split: str = "heldout",
) -> str:
    """Evaluate and record the main scores as metrics; returns the fingerprint of the results."""
    arguments = dict(locals())
    from drrho_clip.evaluation import EvaluateConfig
    from drrho_clip.evaluation import evaluate as measure
    from drrho_clip.storage import open_store
    from drrho_components.steps import fingerprint, settings, step

    with step("evaluate", arguments):
        result = measure(settings(EvaluateConfig, arguments), open_store(store))
        for name, value in result.scalars().items():
            metrics.log_metric(name, value)
        return fingerprint(result)
