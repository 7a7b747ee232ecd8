"""Pictures to the vision tower's patches, equal to Transformers' Qwen2-VL image processor and vectorised.

Pictures are uint8 tensors [3, H, W]; a stack of same-sized ones is cut into patches in a few tensor operations.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from covt_model.model_errors import CheckpointError, ModelError

Grid = tuple[int, int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ImageSettings:
    """The checkpoint's picture settings. `cell` pixels a side make one visual token."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def cell(self) -> int:
        return self.patch * self.merge

    @classmethod
    def read(cls, checkpoint: Path | str) -> Self:
        """Read from the checkpoint's preprocessor_config.json or processor_config.json."""
        values = _read_processor(Path(checkpoint))
        size = values.get("size") or {}
        return cls(
            patch=values.get("patch_size", cls.patch),
            merge=values.get("merge_size", cls.merge),
            temporal=values.get("temporal_patch_size", cls.temporal),
            min_pixels=values.get("min_pixels") or size.get("shortest_edge", cls.min_pixels),
            max_pixels=values.get("max_pixels") or size.get("longest_edge", cls.max_pixels),
            mean=tuple(values.get("image_mean", cls.mean)),
            std=tuple(values.get("image_std", cls.std)),
        )


def _read_processor(checkpoint: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = checkpoint / name
        if path.is_file():
            values = json.loads(path.read_text())
            return values.get("image_processor", values)
    raise CheckpointError(
        f"{checkpoint} has no preprocessor_config.json", "copy it from the model the checkpoint was trained from"
    )


def decode(data: bytes, box: Box | None = None) -> torch.Tensor:
    """Encoded picture bytes (PNG, JPEG, …) → uint8 [3, H, W] in RGB, cut to pixels [x0, x1) × [y0, y1) of `box`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened
            if box is not None:
                _check_box(box, *opened.size)
                picture = opened.crop(box)  # before the conversion, which is dearer than the crop
            array = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ModelError(f"a picture can't be decoded: {error}", "prepare the data again") from error
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _check_box(box: Box, width: int, height: int) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ModelError(f"focus box {list(box)} is not inside the {width}×{height} picture", "prepare the data again")


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


def visual_tokens(grid: Grid, merge: int) -> int:
    """Number of merged visual tokens of a patch grid."""
    return grid[0] * grid[1] * grid[2] // merge**2


@lru_cache(maxsize=8)
def _mean_std(settings: ImageSettings) -> tuple[torch.Tensor, torch.Tensor]:
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
