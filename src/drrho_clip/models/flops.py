"""The floating-point operations of a model, counted by torch as they are called for, on a device without memory."""

from __future__ import annotations

from drrho_clip.models.architectures import architecture_info, create_model


def flops_per_sample(architecture: str) -> int:
    """FLOPs of one forward pass over one image and one caption: an addition and a multiplication are two.

    Counted are matrix products, convolutions and attention, which is where the published figures come from ("GFLOPs per sample",
    arXiv 2505.06699, figure 2: 41.1 for ViT-B/16); a step of training takes three times as many. Nothing is computed for it.
    Raises ModelError for an unknown architecture.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    info = architecture_info(architecture)
    model = create_model(architecture, device="meta")
    samples = 2  # batch norm over an image of one pixel refuses a batch of one
    image = torch.empty(samples, 3, info.image_size, info.image_size, device="meta")
    text = torch.zeros(samples, info.context_length, dtype=torch.int64, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:  # with gradients on: without them attention takes a fused path that the counter does not know
        model(image, text)
    return int(counter.get_total_flops()) // samples
