"""Settings of the step `ingest`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drrho_clip.schema import Config

SourceKind = Literal["folder", "shards", "table", "openmoji", "scenes", "curated"]


class IngestConfig(Config):
    """From image-text data to shards and a manifest; every field is a scalar."""

    dataset: str = "openmoji"
    source: SourceKind = "openmoji"
    path: str = Field(
        "",
        description="Folder, tar (pattern, folder, s3:// or http(s) URL), table, or run (curated); unused by openmoji and scenes",
    )
    samples: int = Field(0, ge=0, description="At most this many samples (scenes: how many to generate); 0 = all")
    keep: float = Field(1.0, gt=0, le=1, description="curated: share of the training samples to keep, by the weight in the run")
    caption_template: str = Field(
        "",
        description="folder: caption from the path, {stem}, {parent}, {path} or {words}; empty = file beside the image. "
        "openmoji: {name}, {group}",
    )
    caption_field: str = Field("", description="Column of the table or key of the .json that holds the caption; empty = guessed")
    image_field: str = Field("", description="Column of the table that holds image bytes or a path; empty = guessed")
    class_field: str = Field("", description="Column or .json key of the class name; {parent}, {top} = the folder; empty = none")
    split_field: str = Field("", description="Column or .json key that holds the split; empty = drawn by key")
    separator: str = Field("", description="Column separator of a text table; empty = guessed and logged")
    image_size: int = Field(0, ge=0, description="Shrink the shorter side to this many pixels; 0 = keep")
    min_image_side: int = Field(8, ge=1, description="Images with a shorter side below this are bad samples")
    max_image_pixels: int = Field(64_000_000, ge=1, description="Images with more pixels are bad samples (decompression bombs)")
    max_aspect_ratio: float = Field(20.0, ge=1)
    caption_noise: float = Field(0.0, ge=0, le=1, description="Share of the training captions that are exchanged with each other")
    caption_noise_part: Literal["all", "clean"] = Field("all", description="clean = leave the exchanged samples out")
    heldout_fraction: float = Field(0.1, ge=0, lt=1)
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    shard_samples: int = Field(1000, ge=1)
    max_bad_fraction: float = Field(0.1, ge=0, le=1, description="More bad samples than this share end the step")
    workers: int = Field(0, ge=0, description="Processes that decode images; 0 = one per core")
    seed: int = 0
