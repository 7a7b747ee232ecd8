"""A Qwen3-VL whose language model comes from a Qwen3 text checkpoint, with a fresh vision tower.

For text the three position axes are equal, and Qwen3-VL's language model then computes what Qwen3 does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from covt_model.families.family import VisionSizes
from covt_model.families.qwen3_vl.defaults import DEFAULTS
from covt_model.families.qwen3_vl.tower import scale_tower
from covt_model.families.text_backbone_parts import mrope_sections, preprocessor_config, rotary_settings
from covt_model.model_errors import ModelError

TEXT_TYPES = ("qwen3",)
POSITIONS = 48 * 48  # entries of the tower's table of patch positions, as published


def build_config(
    text: Mapping[str, Any], vision: VisionSizes, rows: int, token: Callable[[str], int], source: str
) -> dict[str, Any]:
    """Build the model's config. Each block of the tower has a DeepStack level, as far as there are decoder layers.

    Args:
        text: config.json of the text checkpoint.
        vision: sizes of the vision tower.
        rows: rows of the embedding.
        token: maps a token's text to its id.
        source: what an error calls the text checkpoint.

    Raises:
        ModelError: the text model computes something that this family doesn't.
    """
    _check(text, source)
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    head_size, tied = text.get("head_dim") or 128, bool(text.get("tie_word_embeddings", False))
    ids = {key: text.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "tie_word_embeddings": tied,
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        **ids,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": rows,
            "hidden_size": hidden,
            "intermediate_size": text["intermediate_size"],
            "num_hidden_layers": text["num_hidden_layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": text.get("num_key_value_heads") or heads,
            "head_dim": head_size,
            "max_position_embeddings": text["max_position_embeddings"],
            "rms_norm_eps": text["rms_norm_eps"],
            "tie_word_embeddings": tied,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": rotary_settings(text).get("rope_theta", 1_000_000.0),
                "mrope_section": mrope_sections(head_size),
                "mrope_interleaved": True,
            },
            **ids,
        },
        "vision_config": {
            "model_type": "qwen3_vl_vision",
            "depth": vision.depth,
            "hidden_size": vision.hidden,
            "intermediate_size": 2 * vision.hidden,
            "num_heads": max(1, vision.hidden // 64),
            "out_hidden_size": hidden,
            "num_position_embeddings": POSITIONS,
            "deepstack_visual_indexes": list(range(min(vision.depth, text["num_hidden_layers"]))),
            "patch_size": DEFAULTS.patch,
            "spatial_merge_size": DEFAULTS.merge,
            "temporal_patch_size": DEFAULTS.temporal,
        },
    }


def _check(text: Mapping[str, Any], source: str) -> None:
    kind = rotary_settings(text).get("rope_type") or "default"
    refused = {
        f"scaled rotary positions ({kind})": kind != "default",
        "biases that Qwen3-VL doesn't have": bool(text.get("attention_bias")),
        "sliding-window attention": bool(text.get("use_sliding_window")),
        f"the activation {text.get('hidden_act')!r}": text.get("hidden_act", "silu") != "silu",
    }
    for reason, holds in refused.items():
        if holds:
            raise ModelError(f"{source} has {reason}", "use a Qwen3 checkpoint without it")


def zero_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """No tensor is missing in a Qwen3 checkpoint."""
    return {}


def vision_tower(
    config: Mapping[str, Any], images: Sequence[torch.Tensor], pixels: tuple[int, int], std: float, seed: int
) -> torch.nn.Module:
    """Draw a vision tower whose features of `images` have mean 0 and standard deviation `std`.

    Args:
        config: the model's config.
        images: sample images, uint8 [3, H, W] each.
        pixels: least and most pixels of an image.
        std: standard deviation of the features.
        seed: seed of the weights.
    """
    from transformers import Qwen3VLConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    visual = Qwen3VLVisionModel._from_config(Qwen3VLConfig(**config).vision_config).float()
    settings = replace(DEFAULTS, min_pixels=pixels[0], max_pixels=pixels[1])
    scale_tower(visual, images, settings, seed, std)
    return visual


def preprocessor(min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    return preprocessor_config(DEFAULTS, "Qwen3VLProcessor", min_pixels, max_pixels)
