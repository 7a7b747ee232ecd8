"""A random vision tower whose visual tokens are standardized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from covt_model.families.image_settings import ImageSettings
from covt_model.families.qwen2_5_vl.image_patches import patchify


@torch.no_grad()
def standardize_vision(
    visual: Any, images: Sequence[torch.Tensor], settings: ImageSettings, seed: int, std: float = 1.0
) -> None:
    """Draw the vision tower's weights with variance 1/fan-in, then rescale its last linear layer, both in place.

    Afterwards the images' visual tokens have mean 0 and standard deviation `std` in every dimension.

    Args:
        visual: the vision tower in fp32.
        images: sample images, uint8 [3, H, W] each.
        settings: how images become patches.
        seed: seed of the weights.
        std: standard deviation of the visual tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in visual.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    features = []
    for image in images:
        pixels, grid = patchify(image[None], settings)
        features.append(visual(pixels, grid_thw=torch.tensor([grid])).pooler_output)
    tokens = torch.cat(features)
    mean, scale = tokens.mean(0), std / (tokens.std(0) + 1e-8)
    last = cast("torch.nn.Linear", visual.merger.mlp[2])
    last.weight.mul_(scale[:, None])
    last.bias.sub_(mean).mul_(scale)
