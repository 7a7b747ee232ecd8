"""A Qwen2.5-VL whose language model comes from a Llama or Qwen2 text checkpoint, with a fresh vision tower.

Both text models compute what Qwen2.5-VL's language model computes for text: its three position axes are then equal, and
Llama lacks only the biases of the query, key and value projections, which become zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from covt_model.families.family import VisionSizes
from covt_model.families.qwen2_5_vl.defaults import DEFAULTS
from covt_model.families.qwen2_5_vl.tower import scale_tower
from covt_model.families.text_backbone_parts import mrope_sections, preprocessor_config, rotary_settings
from covt_model.model_errors import ModelError

TEXT_TYPES = ("llama", "qwen2")


def build_config(
    text: Mapping[str, Any], vision: VisionSizes, rows: int, token: Callable[[str], int], source: str
) -> dict[str, Any]:
    """Build the model's config.

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
    tied = bool(text.get("tie_word_embeddings", False))
    ids = {key: text.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "tie_word_embeddings": tied,
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        **ids,
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": rows,
            "hidden_size": hidden,
            "intermediate_size": text["intermediate_size"],
            "num_hidden_layers": text["num_hidden_layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": text.get("num_key_value_heads") or heads,
            "max_position_embeddings": text["max_position_embeddings"],
            "rms_norm_eps": text["rms_norm_eps"],
            "tie_word_embeddings": tied,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": rotary_settings(text).get("rope_theta", 10_000.0),
                "mrope_section": mrope_sections(hidden // heads),
            },
            **ids,
        },
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": vision.depth,
            "hidden_size": vision.hidden,
            "intermediate_size": 2 * vision.hidden,
            "num_heads": max(1, vision.hidden // 64),
            "out_hidden_size": hidden,
            "window_size": vision.window,
            "fullatt_block_indexes": [],
            "patch_size": DEFAULTS.patch,
            "spatial_merge_size": DEFAULTS.merge,
            "temporal_patch_size": DEFAULTS.temporal,
        },
    }


def _check(text: Mapping[str, Any], source: str) -> None:
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    head_size = text.get("head_dim") or hidden // heads
    kind = rotary_settings(text).get("rope_type") or "default"
    llama_bias = text["model_type"] == "llama" and (text.get("attention_bias") or text.get("mlp_bias"))
    refused = {
        f"heads of {head_size} dimensions, not {hidden} / {heads}": head_size * heads != hidden,
        f"scaled rotary positions ({kind})": kind != "default",
        "biases that Qwen2.5-VL doesn't have": bool(llama_bias),
        "sliding-window attention": bool(text.get("use_sliding_window")),
        f"the activation {text.get('hidden_act')!r}": text.get("hidden_act", "silu") != "silu",
    }
    for reason, holds in refused.items():
        if holds:
            raise ModelError(f"{source} has {reason}", "use a Llama or Qwen2 checkpoint without it")


def zero_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Checkpoint names and shapes of the tensors that are zero where a text checkpoint lacks them."""
    text = config["text_config"]
    head_size = text["hidden_size"] // text["num_attention_heads"]
    heads = {"q": text["num_attention_heads"], "k": text["num_key_value_heads"], "v": text["num_key_value_heads"]}
    return {
        f"model.layers.{layer}.self_attn.{name}_proj.bias": (count * head_size,)
        for layer in range(text["num_hidden_layers"])
        for name, count in heads.items()
    }


def vision_tower(
    config: Mapping[str, Any], images: Sequence[torch.Tensor], pixels: tuple[int, int], std: float, seed: int
) -> torch.nn.Module:
    """Draw a vision tower whose visual tokens of `images` have mean 0 and standard deviation `std`.

    Args:
        config: the model's config.
        images: sample images, uint8 [3, H, W] each.
        pixels: least and most pixels of an image.
        std: standard deviation of the visual tokens.
        seed: seed of the weights.
    """
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(Qwen2_5_VLConfig(**config).vision_config).float()
    settings = replace(DEFAULTS, min_pixels=pixels[0], max_pixels=pixels[1])
    scale_tower(visual, images, settings, seed, std)
    return visual


def preprocessor(min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    return preprocessor_config(DEFAULTS, "Qwen2_5_VLProcessor", min_pixels, max_pixels)
