"""Settings of the step `ingest`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from drrho_clip.schema import Config

SourceKind = Literal["folder", "shards", "table", "openmoji", "scenes", "curated"]


class IngestConfig(Config):
    """From image-text data to shards and a manifest; every field is a scalar."""

    dataset: str = "openmoji"
    source: SourceKind = "openmoji"
    path: str = Field(
        "",
        description="Folder, tars (folder, pattern, s3:// or http(s) URL), table or list of URLs, run (curated); else unused",
    )
    adopt: bool = Field(False, description="shards: leave the tars where they are, and write only a manifest and their indexes")
    uids: str = Field(
        "",
        description="shards: keep only the samples whose .json has a `uid` of these lists: "
        ".npy (DataComp, DFN), .parquet or .txt; path, pattern, s3:// or http(s) URL",
    )
    samples: int = Field(0, ge=0, description="At most this many samples (scenes: how many to generate); 0 = all")
    keep: float = Field(1.0, gt=0, le=1, description="curated: share of the training samples to keep, by the weight in the run")
    caption_template: str = Field(
        "",
        description="folder: caption from the path, {stem}, {parent}, {path} or {words}; empty = file beside the image. "
        "List of URLs: the same from each URL's path. "
        "openmoji: {name}, {group}",
    )
    caption_field: str = Field("", description="Column of the table or key of the .json that holds the caption; empty = guessed")
    image_field: str = Field("", description="Column of the table that holds image bytes, a path or a URL; empty = guessed")
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
    download_connections: int = Field(128, ge=1, le=4096, description="URLs: connections at once, in all")
    download_host_connections: int = Field(8, ge=1, description="URLs: connections at once to one host")
    download_host_delay: float = Field(0.0, ge=0, description="URLs: seconds between two requests to one host")
    download_rate: float = Field(0.0, ge=0, description="URLs: requests per second in all; 0 = no limit")
    download_timeout: float = Field(30.0, gt=0, description="URLs: seconds for one attempt, redirects and body included")
    download_rounds: int = Field(3, ge=1, le=20, description="URLs: attempts per row that fails for a passing reason")
    download_backoff: float = Field(
        2.0, ge=0, description="URLs: seconds before the second attempt, doubled before each further one"
    )
    max_download_bytes: int = Field(32 * 2**20, ge=1, description="URLs: bodies with more bytes are bad samples")
    sha256_field: str = Field("sha256", description="URLs: column with the expected sha256, checked where the table has it")
    drop_duplicates: Literal["none", "content", "look"] = Field(
        "none", description="URLs: leave out images whose bytes (content), or whose bytes or look, an earlier row had"
    )
    allow_private: bool = Field(False, description="URLs: connect to private, loopback and other addresses that are not public")
    respect_robots: bool = Field(True, description="URLs: leave out what X-Robots-Tag: noai or noimageai forbids")
    retry_failed: bool = Field(
        False, description="URLs: also fetch the rows of a finished dataset that failed for a passing reason"
    )
    workers: int = Field(0, ge=0, description="Processes that decode images; 0 = one per core")
    group: int = Field(
        0, ge=0, description="Which of the groups this is; 0 also does what the others have not done, and publishes"
    )
    groups: int = Field(1, ge=1, le=64, description="How many share the work; the dataset is the same for any number")
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group >= self.groups:
            raise ValueError(f"group {self.group} of {self.groups}: groups count from 0")
        return self
