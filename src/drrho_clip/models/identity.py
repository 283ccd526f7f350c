"""What has to be equal for two models to give equal features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

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

    def differences(self, other: ModelIdentity) -> dict[str, tuple[Any, Any]]:
        """Fields in which the two would give different features: name -> (here, there); empty where they are the same model."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in type(self).model_fields if name != "spec"}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
