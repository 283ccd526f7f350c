"""What has to be equal for two models to give equal features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from drrho_clip.errors import ModelError
from drrho_clip.schema import Config

Precision = Literal["fp32", "bf16"]
Activation = Literal["gelu", "quickgelu"]


class Preprocessing(Config):
    """How a picture becomes the network's input: open_clip's PreprocessCfg, as plain values."""

    size: tuple[int, int]  # height, width in pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Take open_clip's `preprocess_cfg`, whose size may be one number."""
        size = config["size"]
        fields = {name: config[name] for name in cls.model_fields if name != "size"}
        return cls.parse({**fields, "size": (size, size) if isinstance(size, int) else tuple(size)}, where="preprocess_cfg")


class ModelIdentity(Config):
    """A model as far as its features depend on it; `spec` is only what the user called it."""

    spec: str
    architecture: str
    weights_sha256: str
    activation: Activation
    preprocessing: Preprocessing
    precision: Precision
    dim: int


def refuse_mix(recorded: Config, loaded: Config, *, what: str, fix: str) -> None:
    """Raise ModelError, with where they differ, unless two records of a model (spec, weights, ...) give the same features.

    `spec` is left out: the same model may be called differently.
    """
    ours, theirs = loaded.model_dump(), recorded.model_dump()
    differing = {name: (theirs[name], ours[name]) for name in theirs if name != "spec" and theirs[name] != ours.get(name)}
    if differing:
        details = "; ".join(f"{name} is {there} there, {here} here" for name, (there, here) in differing.items())
        raise ModelError(f"{what} is from the model '{theirs['spec']}', which is not '{ours['spec']}': {details}", fix=fix)
