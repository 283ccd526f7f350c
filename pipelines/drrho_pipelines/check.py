"""Whether a pipeline's parameters are values that its steps and pods will take, before the first of them starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drrho_clip.config import SECTIONS
from drrho_clip.continual.config import LeaseConfig, PromoteConfig
from drrho_clip.errors import ConfigError
from drrho_clip.method import METHODS
from drrho_clip.schema import Config
from drrho_clip.storage import layout
from drrho_clip.studies.config import split_list
from drrho_components.steps import check_endpoint, refuse_macros
from drrho_pipelines.mapping import PREFIXES

CONFIGS: Mapping[str, type[Config]] = {
    **{PREFIXES[section]: config for section, config in SECTIONS.items()},
    "promote": PromoteConfig,
    "lease": LeaseConfig,
}
"""What checks the settings of a step, by the prefix of its parameters."""

RESOURCE = re.compile(r"_(cpu|memory|gpus)$")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?", re.ASCII)
TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}


def check_settings(values: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the parameter's name, where `values`, all parameters of a pipeline, are not what it takes."""
    refuse_macros(values)
    check_endpoint(values.get("store_endpoint", ""))
    for name, key in {"dataset": layout.dataset, "run": layout.run}.items():
        if name in values:
            key(values[name])
    for prefix, config in CONFIGS.items():
        _check_step(prefix, config, values)
    _check_study(values)
    for name, value in values.items():
        if RESOURCE.search(name) and not QUANTITY.fullmatch(str(value)):
            raise ConfigError(f"'{name}' is no quantity: {value!r}", fix="Write 4, 500m or 8Gi.")
        if name.endswith("node_selector"):
            _check_node_selector(name, value)
        if name.endswith("tolerations"):
            _check_tolerations(name, value)


def _check_step(prefix: str, config: type[Config], values: Mapping[str, Any]) -> None:
    """Parse the settings of a step as the step itself will, with stand-ins for those that earlier steps give."""
    given = {key: values[f"{prefix}_{key}"] for key in config.model_fields if f"{prefix}_{key}" in values}
    if not given or (prefix == "reference" and not given.get("model")):
        return
    stand_ins = {
        "train": {"reference": "reference" if values.get("reference_model") else ""},
        "evaluate": {"run": "run"},
        "report": {"runs": "run"},
    }
    if "study_methods" in values:  # every run has its own method
        stand_ins["train"] = {"method": "openclip", "reference": "reference"}
    try:
        config.parse({**given, **stand_ins.get(prefix, {})})
    except ConfigError as error:
        names = "|".join(map(re.escape, config.model_fields))
        raise ConfigError(re.sub(rf"'({names})'", rf"'{prefix}_\1'", error.what), where=f"parameters {prefix}_*") from None


def _check_study(values: Mapping[str, Any]) -> None:
    """A method that needs a reference finds none before the first training otherwise, which may be hours later."""
    has_reference = any(values.get(name) for name in ("reference_model", "study_references", "study_weak_architecture"))
    needing = [name for name in split_list(values.get("study_methods", "")) if METHODS[name].needs_reference]
    if needing and not has_reference:
        raise ConfigError(
            f"The method '{needing[0]}' needs a reference",
            where="study_methods",
            fix="Set reference_model, or study_references to the names of features that there are.",
        )


def _check_node_selector(name: str, value: Mapping[str, Any]) -> None:
    wrong = [key for key, text in value.items() if not isinstance(text, str)]
    if wrong:
        raise ConfigError(f"'{name}' has a value that is no text, at {wrong[0]!r}", fix='Write {"pool": "gpu"}.')


def _check_tolerations(name: str, value: list[Any]) -> None:
    for toleration in value:
        if not isinstance(toleration, Mapping) or not toleration or set(toleration) - TOLERATION:
            raise ConfigError(
                f"'{name}' holds what is no toleration: {toleration!r}",
                fix='Write [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}].',
            )
