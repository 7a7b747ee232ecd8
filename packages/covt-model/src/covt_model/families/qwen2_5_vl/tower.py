"""The vision tower of Qwen2.5-VL: its features, and how a random one is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from covt_model.families.image_settings import ImageSettings
from covt_model.families.vision_scaling import standardize_vision


def visual_features(visual: Any, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """The merger's output [N, H]."""
    return visual(patches, grid_thw=grids).pooler_output


def scale_tower(
    visual: Any, images: Sequence[torch.Tensor], settings: ImageSettings, seed: int, std: float = 1.0
) -> None:
    """Draw the tower's weights so that the images' visual tokens have mean 0 and standard deviation `std`, in place."""
    standardize_vision(
        visual, images, settings, seed, std, last=lambda tower: [tower.merger.mlp[2]], features=visual_features
    )


def is_cellwise(visual: Any) -> bool:
    """Whether every block has windows of one cell, as in tiny models."""
    vision = visual.config
    return not vision.fullatt_block_indexes and vision.window_size == vision.patch_size * vision.spatial_merge_size
