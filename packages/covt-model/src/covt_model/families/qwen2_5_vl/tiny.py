"""Settings of a tiny Qwen2.5-VL: model config and random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from covt_model.families.family import TinySizes
from covt_model.families.qwen2_5_vl.defaults import DEFAULTS
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

# One 28 px cell is one visual token; images from 1 to 16 × 16 cells keep their size.
SETTINGS = replace(DEFAULTS, min_pixels=28 * 28, max_pixels=16 * 16 * 28 * 28)


def tiny_config(sizes: TinySizes, rows: int, token: Any) -> dict[str, Any]:
    """Build the model's config.

    Args:
        sizes: sizes of the tiny model.
        rows: rows of the embedding.
        token: maps a token's text to its id.

    Raises:
        ModelError: the M-RoPE sections don't fill half the head size.
    """
    head_size = sizes.hidden // sizes.heads
    if 2 * sum(sizes.mrope) != head_size:
        raise ModelError(f"mrope {sizes.mrope} must sum to half the head size {head_size}", "change mrope or heads")
    return {
        "tie_word_embeddings": True,
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "text_config": {
            "vocab_size": rows,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "max_position_embeddings": sizes.max_positions,
            "rms_norm_eps": 1e-6,
            "initializer_range": sizes.init_std,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": sizes.rope_theta,
                "mrope_section": list(sizes.mrope),
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": None,
        },
        "vision_config": {
            "depth": sizes.vision_depth,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": 2 * sizes.vision_hidden,
            "num_heads": max(1, sizes.vision_hidden // 32),
            "out_hidden_size": sizes.hidden,
            "window_size": sizes.window or SETTINGS.cell,
            "fullatt_block_indexes": [],
            "initializer_range": sizes.init_std,
            "patch_size": SETTINGS.patch,
            "spatial_merge_size": SETTINGS.merge,
            "temporal_patch_size": SETTINGS.temporal,
        },
    }


def random_model(config: dict, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Draw the weights of a model of this config in fp32, without moving the global random state."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).float().eval()
