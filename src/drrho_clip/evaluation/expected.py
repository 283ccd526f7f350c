"""Whether an evaluation can have a score, as far as its dataset tells before there is a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drrho_clip.errors import ConfigError
from drrho_clip.evaluation.classes import class_list
from drrho_clip.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from drrho_clip.data.manifest import Manifest


def check_expected(metric: str, config: EvaluateConfig, manifest: Manifest) -> None:
    """Raise ConfigError where there are too few candidates or classes for `metric`, or no classes at all."""
    number = metric.rpartition("_")[2]
    if "_recall_at_" in metric:
        shards = manifest.split(config.split) if config.candidates == "split" else manifest.shards
        among, what = sum(shard.count for shard in shards), "candidates"
    else:
        classes = class_list(config.classnames, manifest)
        if isinstance(classes, str):
            raise ConfigError(
                f"There will be no {metric}: {classes}", where=f"dataset {manifest.name}", fix="Choose another measure."
            )
        among, what = len(classes.classnames), "classes"
    least = int(number) + 1 if number.isdecimal() else 2
    if among < least:
        raise ConfigError(
            f"There will be no {metric}: it needs {least} {what}, and there are {among}",
            where=f"dataset {manifest.name}, split {config.split}",
            fix="Choose another measure, or another split.",
        )
