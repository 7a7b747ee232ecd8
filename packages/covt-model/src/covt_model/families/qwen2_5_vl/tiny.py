"""Settings of a tiny Qwen2.5-VL: tokenizer, chat template, model config and random weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from covt_model.families.family import TinySizes
from covt_model.families.qwen2_5_vl.image_patches import DEFAULTS
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2.5-VL's layout without the default system prompt, whose tokens a tiny model would have to carry in every row.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
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
            "window_size": sizes.window,
            "fullatt_block_indexes": [],
            "initializer_range": sizes.init_std,
            "patch_size": SETTINGS.patch,
            "spatial_merge_size": SETTINGS.merge,
            "temporal_patch_size": SETTINGS.temporal,
        },
    }


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE with Qwen2's pre-tokenizer, leaving room for the special and latent tokens in `vocab_size`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bare = Tokenizer(models.BPE())
    bare.normalizer = Qwen2Tokenizer().backend_tokenizer.normalizer
    bare.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - 3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    trained = json.loads(bare.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],  # pyright: ignore[reportArgumentType]
        unk_token=None,  # pyright: ignore[reportArgumentType]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
    )


def random_model(config: dict, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Draw the weights of a model of this config in fp32, without moving the global random state."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).float().eval()
