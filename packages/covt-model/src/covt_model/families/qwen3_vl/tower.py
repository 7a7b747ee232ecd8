"""The vision tower of Qwen3-VL: its features with those of DeepStack, and how a random one is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from covt_model.families.image_settings import ImageSettings
from covt_model.families.vision_scaling import standardize_vision


def visual_features(visual: Any, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """The merger's output beside the DeepStack features of each level: [N, (1 + levels) · H]."""
    output = visual(patches, grid_thw=grids)
    return torch.cat([output.pooler_output, *output.deepstack_features], dim=1)


def scale_tower(
    visual: Any,
    images: Sequence[torch.Tensor],
    settings: ImageSettings,
    seed: int,
    std: float = 1.0,
    *,
    cellwise: bool = False,
) -> None:
    """Draw the tower's weights so that all features of the images have mean 0 and standard deviation `std`, in place.

    cellwise: attention and positions add nothing, so that each visual token depends on its own cell alone.
    """
    standardize_vision(
        visual, images, settings, seed, std,
        last=_last_layers, features=visual_features, adjust=_make_cellwise if cellwise else lambda tower: None,
    )  # fmt: skip


def _last_layers(visual: Any) -> list[nn.Linear]:
    return [visual.merger.linear_fc2, *(merger.linear_fc2 for merger in visual.deepstack_merger_list)]


def _mixing_weights(visual: Any) -> list[torch.Tensor]:
    """The parameters through which a patch learns of its place and of the others."""
    outputs = [block.attn.proj for block in visual.blocks]
    return [visual.pos_embed.weight, *(part for output in outputs for part in (output.weight, output.bias))]


def _make_cellwise(visual: Any) -> None:
    for weight in _mixing_weights(visual):
        weight.zero_()


def is_cellwise(visual: Any) -> bool:
    """Whether attention and positions add nothing, as in tiny models."""
    return not any(bool(weight.any()) for weight in _mixing_weights(visual))
