"""What the rest of the package needs to know of a model family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    window: int = 0
    """Side of the area that a cell's features depend on; 0 means the cell alone."""
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
    scale_vision: Callable[[Any, Sequence[torch.Tensor], int, TinySizes], None]
    """(model, sample images, seed, sizes): draws a vision tower that makes standardized features of the images."""
    preprocessor: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of a fresh vision tower. `hidden` counts elements, `window` pixels."""

    depth: int = 1
    hidden: int = 256
    window: int = 28
    """Side of a vision window. With one cell per window, each visual token depends on its own cell alone."""


@dataclass(frozen=True)
class TextBackbone:
    """How a family takes its language model from a text checkpoint."""

    text_types: tuple[str, ...]
    """`model_type` of the text checkpoints that it takes."""
    special_tokens: tuple[str, ...]
    """Tokens that mark images, which a text tokenizer lacks."""
    template_prefix: str
    """Put before a text chat template, so that it renders messages with images."""
    config: Callable[[Mapping[str, Any], VisionSizes, int, Callable[[str], int], str], dict[str, Any]]
    """(text config, vision sizes, embedding rows, token → id, name for errors) → the model's config."""
    zero_tensors: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]
    """(config) → names and shapes of tensors that are zero where the text checkpoint lacks them."""
    vision_tower: Callable[[Mapping[str, Any], Sequence[torch.Tensor], tuple[int, int], float, int], torch.nn.Module]
    """(config, sample images, pixel limits, standard deviation, seed) → tower with standardized visual tokens."""
    preprocessor: Callable[[int, int], dict[str, Any]]
    """(min_pixels, max_pixels) → the content of preprocessor_config.json."""


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
    vision_class: Callable[[], Any]
    """The class of its vision tower in Transformers."""
    image_settings: ImageSettings
    """Settings that hold where a checkpoint's processor config doesn't say otherwise."""
    grid_of: Callable[[int, int, ImageSettings], Grid]
    """(height, width, settings) → patch grid of an image."""
    resize: Callable[[torch.Tensor, ImageSettings], torch.Tensor]
    """uint8 [N, 3, H, W] → whole cells within the pixel limits."""
    patchify: Callable[[torch.Tensor, ImageSettings], tuple[torch.Tensor, Grid]]
    """Same-sized images, uint8 [N, 3, H, W] → (pixel values [N·rows·columns, D], grid of each)."""
    visual_features: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
    """(vision tower, patches [P, D], grids [images, 3]) → features [N, W] of the merged visual tokens.

    The first H columns are the merger's output, which enters the language model as input embeddings. With DeepStack
    (arXiv 2406.04334) each further H columns are added to the hidden states after one decoder layer, the first first.
    """
    is_cellwise: Callable[[Any], bool]
    """Vision tower → whether each visual token depends on its own cell alone."""
    empty_tower: Callable[[Any], None]
    """Makes the tower of a vision config as small as it can be, in place."""
    positions: Callable[[np.ndarray, int, Sequence[Grid], int], np.ndarray]
    """(token ids [T], image pad id, grids, merge) → positions int64 [3, T]."""
    published_config: Callable[[str], dict[str, Any] | None]
    """Hub id or folder name → config of a published checkpoint, as far as sizes follow from it.

    Raises ModelError for a published model of this name that is not supported.
    """
    layer_vectors: Callable[[Mapping[str, Any]], int]
    """Text config → parameters of one decoder layer beside its matrices and the norms of its two inputs."""
    vision_parameters: Callable[[Mapping[str, Any]], int]
    """Vision config → parameters of the vision tower."""
    tiny: Callable[[], TinyFamily]
    text_backbone: Callable[[], TextBackbone]
    vocabulary_weights: tuple[str, ...]
    """Checkpoint names of the matrices with one row per token; the input embedding is first."""
    stored_name: Callable[[str], str]
    """Name of a tensor in this package (`model.norm.weight`, `visual.…`) → its name in the published files."""


def visual_tokens(grid: Grid, merge: int) -> int:
    """Count the merged visual tokens of a patch grid."""
    return grid[0] * grid[1] * grid[2] // merge**2
