"""What a finished run says of itself: the content of summary.json."""

from __future__ import annotations

from drrho_clip.schema import Config


class TrainSummary(Config):
    """Published last by training: the marker of a finished run.

    `final` holds means over the last tenth of the records; its variances are those of all pairs of the last tenth's logged steps.
    """

    run: str
    method: str
    architecture: str
    dataset: str
    dataset_id: str
    dataset_version: int
    reference: str
    steps: int
    samples_seen: int
    samples_skipped: int
    seconds: float
    samples_per_second: float
    temperature: float
    world_size: int
    device: str
    versions: dict[str, str]
    final: dict[str, float]
