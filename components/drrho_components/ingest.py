"""The component `ingest`: image-text data into the store."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    manifest: dsl.Output[dsl.Artifact],
    store: str,
    store_endpoint: str = "",
    lease: str = "",
    dataset: str = "openmoji",
    source: str = "openmoji",
    path: str = "",
    adopt: bool = False,
    uids: str = "",
    samples: int = 0,
    keep: float = 1.0,
    caption_template: str = "",
    caption_field: str = "",
    image_field: str = "",
    class_field: str = "",
    split_field: str = "",
    separator: str = "",
    image_size: int = 0,
    min_image_side: int = 8,
    max_image_pixels: int = 64_000_000,
    max_aspect_ratio: float = 20.0,
    caption_noise: float = 0.0,
    caption_noise_part: str = "all",
    heldout_fraction: float = 0.1,
    validation_fraction: float = 0.0,
    shard_samples: int = 1000,
    max_bad_fraction: float = 0.1,
    download_connections: int = 128,
    download_host_connections: int = 8,
    download_host_delay: float = 0.0,
    download_rate: float = 0.0,
    download_timeout: float = 30.0,
    download_rounds: int = 3,
    download_backoff: float = 2.0,
    max_download_bytes: int = 33_554_432,
    sha256_field: str = "sha256",
    drop_duplicates: str = "none",
    allow_private: bool = False,
    respect_robots: bool = True,
    retry_failed: bool = False,
    workers: int = 0,
    group: int = 0,
    groups: int = 1,
    seed: int = 0,
) -> NamedTuple("Outputs", [("version", int), ("fingerprint", str)]):  # type: ignore[valid-type]
    """Write shards and a manifest of what is new; `fingerprint` changes when the data did. Groups beside group 0 give none."""
    arguments = dict(locals())
    from drrho_clip.data.config import IngestConfig
    from drrho_clip.data.ingest import ingest as bring_in
    from drrho_clip.data.ingest import ingest_group
    from drrho_clip.storage import layout, open_store
    from drrho_components.steps import settings, step, write_manifest

    with step("ingest", arguments):
        opened, config = open_store(store), settings(IngestConfig, arguments)
        if config.group:
            ingest_group(config, opened)
            return 0, ""
        found = bring_in(config, opened)
        facts = {"version": found.version, "id": found.id, "samples": found.total, "splits": found.splits}
        write_manifest(manifest, opened.uri_of(layout.dataset_manifest(found.name, found.version)), facts)
        return found.version, found.id
