"""The component `evaluate`: zero-shot classification and retrieval of a run, and of its reference beside it."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    metrics: dsl.Output[dsl.Metrics],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    lease: str = "",
    run: str = "",
    model: str = "",
    reference: str = "",
    dataset: str = "openmoji",
    split: str = "heldout",
    candidates: str = "split",
    classnames: str = "dataset",
    batch_size: int = 256,
    precision: str = "fp32",
    decode_threads: int = 0,
) -> NamedTuple("Outputs", [("label", str), ("fingerprint", str)]):  # type: ignore[valid-type]
    """Record the scores of a run or model as metrics, and those of a reference with the prefix `reference_`."""
    arguments = dict(locals())
    from drrho_clip.evaluation import EvaluateConfig
    from drrho_clip.evaluation import evaluate as measure
    from drrho_clip.storage import open_store
    from drrho_components.steps import fingerprint, settings, step

    with step("evaluate", arguments):
        opened = open_store(store)
        beside = bool(reference and (run or model))
        config = settings(EvaluateConfig, {**arguments, "reference": "" if beside else reference})
        results = {"": measure(config, opened)}
        if beside:
            results["reference_"] = measure(settings(EvaluateConfig, {**arguments, "run": "", "model": ""}), opened)
        for prefix, result in results.items():
            for name, value in result.scalars().items():
                metrics.log_metric(prefix + name, value)
        return config.label, fingerprint(*results.values())
