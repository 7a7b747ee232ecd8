"""The published Qwen2.5-VL-Instruct configs, as far as sizes follow from them (from their config.json)."""

from collections.abc import Mapping
from typing import Any

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def _config(
    hidden: int, layers: int, heads: int, key_heads: int, inner: int, vocabulary: int, vision_inner: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "vision_config": VISION | {"intermediate_size": vision_inner, "out_hidden_size": hidden},
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "3B": _config(2048, 36, 16, 2, 11008, 151936, 3420, True),
    "7B": _config(3584, 28, 28, 4, 18944, 152064, 3420, False),
    "32B": _config(5120, 64, 40, 8, 27648, 152064, 3456, False),
    "72B": _config(8192, 80, 64, 8, 29568, 152064, 3456, False),
}


def published(name: str) -> dict[str, Any] | None:
    """The config of a published checkpoint by its hub id or folder name; None for others."""
    return next((config for size, config in PUBLISHED.items() if f"Qwen2.5-VL-{size}-Instruct" in name), None)


def layer_vectors(text: Mapping[str, Any]) -> int:
    """Parameters of a decoder layer beside its matrices and two norms: the biases of queries, keys and values."""
    heads = text["num_attention_heads"]
    return text["hidden_size"] // heads * (heads + 2 * text.get("num_key_value_heads", heads))


def vision_parameters(vision: Mapping[str, Any]) -> int:
    """Parameters of the vision tower: patch embedding, blocks, and the merger into the language model's width."""
    width, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    patch = vision.get("in_channels", vision.get("in_chans", 3)) * vision["patch_size"] ** 2
    block = 4 * width * width + 4 * width + 3 * width * inner + 2 * inner + width + 2 * width
    merged = width * vision["spatial_merge_size"] ** 2
    merger = width + merged * merged + merged + merged * out + out
    return patch * vision["temporal_patch_size"] * width + vision["depth"] * block + merger
