"""A random vision tower whose visual tokens are standardized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from covt_model.families.image_patches import patchify
from covt_model.families.image_settings import ImageSettings


@torch.no_grad()
def standardize_vision(
    visual: Any,
    images: Sequence[torch.Tensor],
    settings: ImageSettings,
    seed: int,
    std: float = 1.0,
    *,
    last: Callable[[Any], Sequence[nn.Linear]],
    features: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor],
    adjust: Callable[[Any], None] = lambda visual: None,
) -> None:
    """Draw the vision tower's weights with variance 1/fan-in, then rescale its last linear layers, all in place.

    Afterwards the images' visual tokens have mean 0 and standard deviation `std` in every dimension.

    Args:
        visual: the vision tower in fp32.
        images: sample images, uint8 [3, H, W] each.
        settings: how images become patches.
        seed: seed of the weights.
        std: standard deviation of the visual tokens.
        last: the layers whose outputs, side by side, are the visual tokens.
        features: (tower, patches, grids) → visual tokens [N, D].
        adjust: changes the drawn weights before they are rescaled.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in visual.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    adjust(visual)
    found = []
    for image in images:
        pixels, grid = patchify(image[None], settings)
        found.append(features(visual, pixels, torch.tensor([grid])))
    tokens = torch.cat(found)
    start = 0
    for layer in last(visual):
        own = tokens[:, start : start + layer.out_features]
        mean, scale = own.mean(0), std / (own.std(0) + 1e-8)
        layer.weight.mul_(scale[:, None])
        layer.bias.sub_(mean).mul_(scale)
        start += layer.out_features
