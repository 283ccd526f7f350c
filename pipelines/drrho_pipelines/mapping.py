"""A run's config as the flat parameters of a pipeline."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from drrho_clip.config import SECTIONS, RunConfig
from drrho_clip.errors import ConfigError

PREFIXES = {section: "data" if section == "ingest" else section for section in SECTIONS}
"""What a section's settings are called in a pipeline, whose form sorts by name: the data come first."""


GIVEN_BY_STUDY = frozenset({("train", "method"), ("train", "seed"), ("train", "reference")})
"""What a study sets in each of its runs, whatever the config says for a run alone."""


def pipeline_parameters(config: RunConfig, declared: Collection[str]) -> dict[str, Any]:
    """Those of the `declared` parameters that `config` speaks of, with its values.

    Raises ConfigError for a setting that the pipeline itself hands from step to step, where it was set to something else.
    """
    shared = {"store": config.store, "dataset": config.dataset, "run": config.run}
    parameters: dict[str, Any] = {name: value for name, value in shared.items() if name in declared}
    ignored = GIVEN_BY_STUDY if "study_methods" in declared else frozenset()
    for section, prefix in PREFIXES.items():
        if not any(name.startswith(f"{prefix}_") for name in declared):
            continue  # a step that this pipeline does not have
        settings = getattr(config, section)
        if settings is None:
            parameters[f"{prefix}_model"] = ""
            continue
        for key, value in settings.model_dump().items():
            name = f"{prefix}_{key}"
            if name in declared:
                parameters[name] = value
            elif (section, key) not in ignored and value != (own := _handed_on(config, section, key)):
                raise ConfigError(
                    f"'{section}.{key}' is {value!r}, but in a pipeline that step gets {own!r}",
                    fix=f"Leave it out, or use the command `drrho {section}`.",
                )
    return parameters


def _handed_on(config: RunConfig, section: str, key: str) -> Any:
    """What the step gets in a pipeline for a setting that is no parameter."""
    if key == "dataset":
        return config.dataset
    if key in ("run", "runs"):
        return config.run
    if (section, key) == ("train", "reference") and config.reference is not None:
        return config.reference.reference_id
    if (section, key) == ("report", "split"):
        return config.evaluate.label
    return SECTIONS[section].model_fields[key].default
