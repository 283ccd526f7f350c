"""A finished model for inference."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from drrho_clip.models.architectures import Tokenizer
from drrho_clip.models.identity import ModelIdentity

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True)
class Encoder:
    """A model in eval mode on `device`, with the preprocessing and the tokenizer that belong to it.

    What open_clip's transform does to one picture after the other is divided: pixels stay bytes until a whole batch of them is
    on the device, where it becomes the numbers that the network takes.
    """

    identity: ModelIdentity
    model: Any  # open_clip's CLIP or CustomTextCLIP
    tokenizer: Tokenizer
    fit: Callable[[Image], Image]  # RGB picture -> one of the network's size
    device: torch.device

    @property
    def logit_scale(self) -> float:
        """The trained inverse temperature, the same on every device."""
        return math.exp(float(self.model.logit_scale.detach()))

    def record(self) -> dict[str, Any]:
        """Return what is written beside features or scores, in plain values: the identity and the logit scale."""
        preprocessing = self.identity.preprocessing.model_dump_json()
        return {**self.identity.model_dump(), "preprocessing": preprocessing, "logit_scale": self.logit_scale}

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Return int64 tokens [n, context_length] of n texts."""
        return self.tokenizer(texts)

    def preprocess(self, image: Image) -> torch.Tensor:
        """Return uint8 [3, height, width] of an RGB picture of any size."""
        import torch

        return torch.from_numpy(np.array(self.fit(image))).permute(2, 0, 1).contiguous()

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input, float32 [n, 3, height, width], of uint8 images: to the bit as open_clip has it."""
        import torch

        known = self.identity.preprocessing
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (known.mean, known.std))
        return normalise(images, mean, std)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 unit-norm features [n, dim] on `device`, of uint8 images [n, 3, height, width]."""
        return self._encode(lambda given: self.model.encode_image(self.normalise(given)), images)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return float32 unit-norm features [n, dim] on `device`, of int64 tokens [n, context_length]."""
        return self._encode(self.model.encode_text, tokens)

    def _encode(self, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode(), self.autocast():
            features = encode(inputs.to(self.device, non_blocking=True))
        return torch.nn.functional.normalize(features.float(), dim=-1)

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the precision of the identity."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.identity.precision == "bf16")


def normalise(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return (images - mean) / std as float32, of images [n, 3, height, width] in bytes (uint8) or in 0..1 (float32).

    mean, std: [3, 1, 1] on the same device, of values in 0..1.
    """
    import torch

    pixels = images.float().div_(255) if images.dtype == torch.uint8 else images.clone()
    return pixels.sub_(mean).div_(std)
