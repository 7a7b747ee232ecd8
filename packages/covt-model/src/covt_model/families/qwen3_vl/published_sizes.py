"""The published dense Qwen3-VL configs, as far as sizes follow from them (from their config.json)."""

from collections.abc import Mapping
from typing import Any

from covt_model.model_errors import ModelError


def _vision(depth: int, width: int, inner: int, levels: list[int], out: int) -> dict[str, Any]:
    return {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": levels,
        "out_hidden_size": out,
    }


def _config(hidden: int, layers: int, heads: int, inner: int, tied: bool, vision: dict[str, Any]) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_vl_text",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": inner,
        "vocab_size": 151_936,
        "tie_word_embeddings": tied,
    }
    return {"model_type": "qwen3_vl", "tie_word_embeddings": tied, "text_config": text, "vision_config": vision}


PUBLISHED: dict[str, dict[str, Any]] = {
    "2B": _config(2048, 28, 16, 6144, True, _vision(24, 1024, 4096, [5, 11, 17], 2048)),
    "4B": _config(2560, 36, 32, 9728, True, _vision(24, 1024, 4096, [5, 11, 17], 2560)),
    "8B": _config(4096, 36, 32, 12288, False, _vision(27, 1152, 4304, [8, 16, 24], 4096)),
}
MIXTURES = ("30B-A3B", "235B-A22B")


def published(name: str) -> dict[str, Any] | None:
    """The config of a published checkpoint by its hub id or folder name; None for others.

    Raises:
        ModelError: the name is that of a mixture of experts.
    """
    for size in MIXTURES:
        if f"Qwen3-VL-{size}" in name:
            raise ModelError(
                f"{name} is a mixture of experts, which is not supported",
                f"use a dense Qwen3-VL: {', '.join(PUBLISHED)}",
            )
    return next((config for size, config in PUBLISHED.items() if f"Qwen3-VL-{size}-" in name), None)


def layer_vectors(text: Mapping[str, Any]) -> int:
    """Parameters of a decoder layer beside its matrices and two norms: the norms of queries and keys."""
    return 2 * text["head_dim"]


def vision_parameters(vision: Mapping[str, Any]) -> int:
    """Parameters of the vision tower: patch embedding, position table, blocks, and a merger for each feature level."""
    width, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    patch = vision.get("in_channels", 3) * vision["patch_size"] ** 2 * vision["temporal_patch_size"]
    block = 4 * width * width + 4 * width + 2 * width * inner + inner + width + 4 * width
    merged = width * vision["spatial_merge_size"] ** 2
    projections = merged * merged + merged + merged * out + out
    levels = len(vision["deepstack_visual_indexes"])
    mergers = (1 + levels) * projections + 2 * width + levels * 2 * merged
    return (patch + 1) * width + vision["num_position_embeddings"] * width + vision["depth"] * block + mergers
