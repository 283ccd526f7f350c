"""What of a picture reaches the network while it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from test_train import in_process
from torch import Tensor

from drrho_clip.data.images import decode_image
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.reader import SampleReader
from drrho_clip.models import architecture_info
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.step import sample_order
from drrho_clip.training.trainer import Towers


@pytest.mark.parametrize(
    "settings", [{"method": "fastclip"}, {"method": "fastclip", "accumulate": 2}, {"method": "jest", "reference": "ref"}]
)
def test_pixels_are_normalised_as_open_clip_does_it(settings: dict[str, Any], scenes_store: Any, monkeypatch: Any) -> None:
    seen: list[Tensor] = []
    forward = Towers.forward

    def noted(towers: Towers, images: Tensor, tokens: Tensor) -> Any:
        seen.append(images)
        return forward(towers, images, tokens)

    monkeypatch.setattr(Towers, "forward", noted)
    config = TrainConfig.parse(
        {"run": "run", "dataset": "scenes", "architecture": "drrho-nano", "batch_size": 16, "samples": 16, "warmup_steps": 0}
        | {"augmentation": "none", **settings}
    )
    train(config, scenes_store, launch=in_process)

    manifest = load_manifest(scenes_store, "scenes")
    reader = SampleReader(scenes_store, manifest)
    preprocessing = architecture_info("drrho-nano").preprocessing
    transform = image_transform_v2(PreprocessCfg(**preprocessing.model_dump()), is_train=False)
    expected = torch.stack(
        [transform(decode_image(reader.get(int(i)).image)) for i in sample_order(config, manifest).batch(0, 0, 1)]
    )
    assert torch.cat(seen)[: len(expected)].equal(expected)
