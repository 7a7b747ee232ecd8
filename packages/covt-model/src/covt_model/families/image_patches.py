"""Pictures to the vision tower's patches, equal to Transformers' Qwen2-VL image processor and vectorised.

The patch size and the pixel limits are arguments, so families with this processor share the code.

Pictures are uint8 tensors [3, H, W]; a stack of same-sized ones is cut into patches in a few tensor operations.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from covt_model.families.image_settings import Grid, ImageSettings
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    import torch


def fit_size(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Size a picture is resized to: whole cells, within the pixel limits, aspect ratio nearly kept.

    The rule is Qwen2-VL's `smart_resize`.
    """
    cell = settings.cell
    if max(height, width) > 200 * min(height, width):
        raise ModelError(f"a picture of {width}×{height} is too narrow", "crop it to an aspect ratio below 200")
    fit_height, fit_width = round(height / cell) * cell, round(width / cell) * cell
    if fit_height * fit_width > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        fit_height = max(cell, math.floor(height / shrink / cell) * cell)
        fit_width = max(cell, math.floor(width / shrink / cell) * cell)
    elif fit_height * fit_width < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        fit_height = math.ceil(height * grow / cell) * cell
        fit_width = math.ceil(width * grow / cell) * cell
    return fit_height, fit_width


def grid_of(height: int, width: int, settings: ImageSettings) -> Grid:
    """Patch grid (1, rows, columns) of a picture of this original size."""
    fit_height, fit_width = fit_size(height, width, settings)
    return 1, fit_height // settings.patch, fit_width // settings.patch


@lru_cache(maxsize=8)
def _mean_std(settings: ImageSettings) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    scale = torch.tensor(255.0)
    return (
        (torch.tensor(settings.mean) * scale).view(1, 3, 1, 1),
        (torch.tensor(settings.std) * scale).view(1, 3, 1, 1),
    )


def resize(pictures: torch.Tensor, settings: ImageSettings) -> torch.Tensor:
    """uint8 [N, 3, H, W] → whole cells within the pixel limits, bicubic; pictures of that size stay as they are."""
    fit = fit_size(pictures.shape[-2], pictures.shape[-1], settings)
    if fit == tuple(pictures.shape[-2:]):
        return pictures
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    return transforms.resize(pictures, list(fit), interpolation=InterpolationMode.BICUBIC, antialias=True)


def patchify(pictures: torch.Tensor, settings: ImageSettings) -> tuple[torch.Tensor, Grid]:
    """Same-sized pictures, uint8 [N, 3, H, W] → (pixel_values float32 [N·rows·columns, D], grid of each).

    D = 3 · temporal · patch². Patches of one merged token are adjacent, as the vision tower expects.
    """
    import torch

    pictures = resize(pictures, settings)
    fit = pictures.shape[-2:]
    mean, std = _mean_std(settings)
    values = pictures.to(torch.float32).sub_(mean).div_(std)
    patch, merge = settings.patch, settings.merge
    rows, columns = fit[0] // patch, fit[1] // patch
    values = values.view(-1, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    values = values.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    values = values.expand(-1, -1, -1, -1, -1, -1, settings.temporal, -1, -1)
    flat = values.reshape(pictures.shape[0] * rows * columns, 3 * settings.temporal * patch * patch)
    return flat, (1, rows, columns)
