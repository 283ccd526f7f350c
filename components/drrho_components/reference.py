"""The component `reference`: a reference model's features and losses of every sample."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def reference(
    manifest: dsl.Output[dsl.Artifact],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    lease: str = "",
    dataset: str = "openmoji",
    model: str = "ViT-B-32/openai",
    name: str = "",
    batch_size: int = 256,
    precision: str = "fp32",
    pool: int = 1024,
    seed: int = 0,
    decode_threads: int = 0,
    worker: int = 0,
    workers: int = 1,
) -> NamedTuple("Outputs", [("name", str), ("fingerprint", str)]):  # type: ignore[valid-type]
    """Compute what is missing of the features and return the name they have; without a model there is nothing to do."""
    arguments = dict(locals())
    from drrho_clip.reference import ReferenceConfig, compute_reference
    from drrho_clip.storage import layout, open_store
    from drrho_components.steps import fingerprint, settings, skipped, step, write_manifest

    with step("reference", arguments):
        if not model:
            skipped("no reference model is set")
            return "", depends_on
        opened = open_store(store)
        config = settings(ReferenceConfig, arguments)
        found = compute_reference(config, opened)
        facts = {"model": config.model, "dataset_version": found.dataset_version, "shards": len(found.shards)}
        write_manifest(manifest, opened.uri_of(layout.reference(dataset, config.reference_id)), facts)
        return config.reference_id, fingerprint(found)
