"""Loading a model in two parts: a trainable model without its vision tower, and the frozen vision tower.

A trainer passes a `Sharding`; each rank then reads only its own shard of each weight, and no rank ever holds the model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from covt_model.checkpoints.hf_folder import FileTensor, SourceWeights, checkpoint_name
from covt_model.checkpoints.shard_writer import PIECE, Stored
from covt_model.decoder.varlen_attention import choose_attention, transformers_attention
from covt_model.families import find_family
from covt_model.latent_config import KEY, LatentConfig, read_config
from covt_model.latents.heads import attach_head
from covt_model.model_errors import CheckpointError

if TYPE_CHECKING:
    from covt_model.decoder.model_types import VisionLanguageModel


class Sharding(Protocol):
    """How a trainer divides a model's weights among its ranks while it is built and loaded."""

    def building(self) -> AbstractContextManager[Any]:
        """A context in which each new parameter is divided as soon as its module exists."""
        ...

    def shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        ...

    def fill(self, parameter: nn.Parameter, stored: Stored) -> None:
        """Read this rank's part of a parameter."""
        ...


class Unsharded:
    """Every parameter whole, in this process's memory.

    maps: parameters in the file's dtype stay in the file's pages. For weights that are not trained, on a CPU.
    """

    def __init__(self, *, maps: bool = False) -> None:
        self.maps = maps

    def building(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        return tuple(parameter.shape)

    def fill(self, parameter: nn.Parameter, stored: Stored) -> None:
        flat = parameter.data.view(-1)
        if self.maps and isinstance(stored, FileTensor) and stored.dtype == parameter.dtype:
            mapped = stored.mapped(0, flat.numel())
            if mapped is not None:
                parameter.data = mapped.view(parameter.shape)
                return
        for start in range(0, flat.numel(), PIECE):
            stop = min(start + PIECE, flat.numel())
            flat[start:stop].copy_(stored.read(start, stop))


def load_split(
    checkpoint: Path | str,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    attention: str = "auto",
    sharding: Sharding | None = None,
) -> tuple[VisionLanguageModel, Any]:
    """Load a checkpoint in two parts.

    Args:
        checkpoint: a Hugging Face folder.
        dtype: of all weights.
        device: of the vision tower.
        attention: one of `varlen_attention.ATTENTION`, or `auto`, which chooses for `device` and `dtype`.
        sharding: divides the model's weights among ranks; by default they are whole.

    Returns:
        (model without its vision tower, frozen vision tower), both in evaluation mode.

    Raises:
        ModelError: the checkpoint is of an unknown family, or `attention` can't be used.
        CheckpointError: a weight is missing, or a file is damaged.
    """
    weights = SourceWeights(checkpoint)
    config = _transformers_config(checkpoint)
    attention = choose_attention(attention, device, dtype)
    visual = _vision_tower(checkpoint, config, weights, dtype, maps=torch.device(device).type == "cpu")
    nn.Module.to(visual, device)
    model = _language_model(checkpoint, config, weights, dtype, attention, sharding or Unsharded())
    settings = read_config(checkpoint)
    if KEY in settings:
        attach_head(model, checkpoint, LatentConfig.from_dict(settings[KEY]))
    return model, visual


def _transformers_config(checkpoint: Path | str) -> Any:
    find_family(read_config(checkpoint), checkpoint)  # raises for an unknown one
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(checkpoint))


def _vision_tower(
    checkpoint: Path | str, config: Any, weights: SourceWeights, dtype: torch.dtype, *, maps: bool
) -> Any:
    from transformers.initialization import no_init_weights

    with no_init_weights():
        visual = find_family(config.model_type).vision_class()._from_config(config.vision_config, dtype=dtype)
    _fill(checkpoint, "visual.", visual, weights, Unsharded(maps=maps))
    return visual.requires_grad_(False).eval()


def _language_model(
    checkpoint: Path | str, config: Any, weights: SourceWeights, dtype: torch.dtype, attention: str, sharding: Sharding
) -> VisionLanguageModel:
    """The model with a vision tower of no blocks, which is then removed."""
    from transformers import GenerationConfig
    from transformers.initialization import no_init_weights

    without_tower = deepcopy(config)
    family = find_family(config.model_type)
    family.empty_tower(without_tower.vision_config)
    with sharding.building(), no_init_weights():
        model = family.model_class()._from_config(
            without_tower, dtype=dtype, attn_implementation=transformers_attention(attention)
        )
    language = model.model.language_model
    language.config._attn_implementation = attention
    # While it shards, DeepSpeed makes all floating-point tensors in the weights' dtype; frequencies need fp32.
    language.rotary_emb = type(language.rotary_emb)(config=language.config)
    model.config.vision_config = config.vision_config
    model.model.visual = None
    model.tie_weights()
    if (Path(checkpoint) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(checkpoint))
    _fill(checkpoint, "", model, weights, sharding)
    return model.eval()


def _fill(checkpoint: Path | str, prefix: str, module: nn.Module, weights: SourceWeights, sharding: Sharding) -> None:
    known = set(weights.names())
    for given, parameter in module.named_parameters():
        name = checkpoint_name(prefix + given)
        if name not in known:
            raise CheckpointError(f"{checkpoint} lacks the weight {name}", "download or export the checkpoint again")
        stored, shape = weights.stored(name), sharding.shape(parameter)
        if shape != tuple(stored.shape):
            raise CheckpointError(
                f"{checkpoint}: {name} is {tuple(stored.shape)}, its config says {shape}",
                "download or export the checkpoint again",
            )
        sharding.fill(parameter, stored)
