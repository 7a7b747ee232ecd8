"""Image settings of a checkpoint: patch size, pixel limits and normalization."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covt_model.model_errors import CheckpointError

Grid = tuple[int, int, int]
"""(time, rows, columns) of an image's patches."""


@dataclass(frozen=True)
class ImageSettings:
    """A checkpoint's image settings. A square of `cell` pixels makes one visual token."""

    model_type: str
    """The family whose patch rule applies."""
    patch: int
    merge: int
    temporal: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def cell(self) -> int:
        return self.patch * self.merge


def read_processor_config(checkpoint: Path | str, defaults: ImageSettings) -> ImageSettings:
    """Read the settings from preprocessor_config.json or processor_config.json; what neither says is in `defaults`.

    Raises:
        CheckpointError: the checkpoint has neither file.
    """
    values = _read_values(Path(checkpoint))
    size = values.get("size") or {}
    return ImageSettings(
        model_type=defaults.model_type,
        patch=values.get("patch_size", defaults.patch),
        merge=values.get("merge_size", defaults.merge),
        temporal=values.get("temporal_patch_size", defaults.temporal),
        min_pixels=values.get("min_pixels") or size.get("shortest_edge", defaults.min_pixels),
        max_pixels=values.get("max_pixels") or size.get("longest_edge", defaults.max_pixels),
        mean=tuple(values.get("image_mean", defaults.mean)),
        std=tuple(values.get("image_std", defaults.std)),
    )


def _read_values(checkpoint: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = checkpoint / name
        if path.is_file():
            values = json.loads(path.read_text())
            return values.get("image_processor", values)
    raise CheckpointError(
        f"{checkpoint} has no preprocessor_config.json", "copy it from the model the checkpoint was trained from"
    )
