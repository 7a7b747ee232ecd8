"""What the rest of the package needs to know of a model family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from covt_model.families.image_settings import Grid, ImageSettings

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class TinySizes:
    """Sizes of a tiny model. Widths count elements, `window` and images pixels."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    intermediate: int = 192
    mrope: tuple[int, int, int] = (4, 6, 6)
    rope_theta: float = 1e4
    init_std: float = 0.08
    vision_depth: int = 1
    vision_hidden: int = 64
    window: int = 28
    """Side of a vision window. A window of one cell makes each visual token depend on its own cell alone."""
    max_positions: int = 4096


@dataclass(frozen=True)
class TinyFamily:
    """How a family makes a tiny model from scratch."""

    cell: int
    """Side in pixels of the square that makes one visual token."""
    chat_template: str
    end_token: str
    text_end_token: str
    train_tokenizer: Callable[[Iterable[str], int], Any]
    """(texts, vocab_size) → tokenizer, with room for the special and latent tokens."""
    config: Callable[[TinySizes, int, Any], dict[str, Any]]
    """(sizes, embedding rows, token → id) → the model's config."""
    random_model: Callable[[dict[str, Any], int], Any]
    """(config, seed) → the model in fp32."""
    scale_vision: Callable[[Any, Sequence[torch.Tensor], int], None]
    """(model, sample images, seed): draws the vision tower so that the images' visual tokens are standardized."""
    preprocessor: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """One model family. Members that need PyTorch or Transformers import them when they are called."""

    model_type: str
    """`model_type` in the checkpoint's config.json."""
    title: str
    """The family's name in texts."""
    model_class_name: str
    """Its class in Transformers, for texts."""
    model_class: Callable[[], Any]
    image_settings: ImageSettings
    """Settings that hold where a checkpoint's processor config doesn't say otherwise."""
    grid_of: Callable[[int, int, ImageSettings], Grid]
    """(height, width, settings) → patch grid of an image."""
    resize: Callable[[torch.Tensor, ImageSettings], torch.Tensor]
    """uint8 [N, 3, H, W] → whole cells within the pixel limits."""
    patchify: Callable[[torch.Tensor, ImageSettings], tuple[torch.Tensor, Grid]]
    """Same-sized images, uint8 [N, 3, H, W] → (pixel values [N·rows·columns, D], grid of each)."""
    is_cellwise: Callable[[Any], bool]
    """Vision config → whether each visual token depends on its own cell alone."""
    positions: Callable[[np.ndarray, int, Sequence[Grid], int], np.ndarray]
    """(token ids [T], image pad id, grids, merge) → positions int64 [3, T]."""
    published_config: Callable[[str], dict[str, Any] | None]
    """Hub id or folder name → config of a published checkpoint, as far as sizes follow from it."""
    tiny: Callable[[], TinyFamily]
    vocabulary_weights: tuple[str, ...]
    """Checkpoint names of the matrices with one row per token; the input embedding is first."""


def visual_tokens(grid: Grid, merge: int) -> int:
    """Count the merged visual tokens of a patch grid."""
    return grid[0] * grid[1] * grid[2] // merge**2
