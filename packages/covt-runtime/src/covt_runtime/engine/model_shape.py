"""The shape of a model, counted from its config.json without building or downloading the model."""

from typing import Any

from covt_runtime.engine.memory_estimate import ModelShape, VisionShape


def model_shape(config: dict[str, Any]) -> ModelShape:
    """The shape that a checkpoint's config.json describes; its language settings may stand in `text_config`."""
    text, vision = config.get("text_config") or config, config["vision_config"]
    hidden, layers, inner = text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"]
    linears = linear_sizes(text)
    heads = text["num_attention_heads"]
    key_width = hidden // heads * text.get("num_key_value_heads", heads)
    biases = hidden + 2 * key_width
    norms = 2 * hidden
    matrices = 2 * hidden * hidden + 2 * hidden * key_width + 3 * hidden * inner
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    embeddings = text["vocab_size"] * hidden * (1 if tied else 2)
    return ModelShape(
        language=layers * (matrices + biases + norms) + hidden + embeddings,
        vision=_vision_parameters(vision),
        layers=layers,
        hidden=hidden,
        intermediate=inner,
        vocabulary=text["vocab_size"],
        linears={name: layers * size for name, size in linears.items()},
        key_width=key_width,
        tower=tower_shape(vision),
    )


def tower_shape(vision: dict[str, Any]) -> VisionShape:
    """The blocks of a vision tower, from a config's `vision_config`."""
    width = vision.get("embed_dim", vision["hidden_size"])
    values = vision.get("in_channels", vision.get("in_chans", 3)) * vision["patch_size"] ** 2
    return VisionShape(
        hidden=width,
        intermediate=vision.get("intermediate_size") or int(width * vision["mlp_ratio"]),
        patch=values * vision["temporal_patch_size"],
        merged=vision["spatial_merge_size"] ** 2,
    )


def linear_sizes(text: dict[str, int]) -> dict[str, int]:
    """Inputs plus outputs of each linear layer of one decoder layer, by its name."""
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    key_width = hidden // heads * text.get("num_key_value_heads", heads)
    attention = {"q_proj": 2 * hidden, "k_proj": hidden + key_width, "v_proj": hidden + key_width}
    return attention | {"o_proj": 2 * hidden} | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)


def _vision_parameters(vision: dict[str, Any]) -> int:
    """Parameters of the vision tower: patch embedding, blocks, and the merger into the language model's width."""
    width, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    patch = vision.get("in_channels", vision.get("in_chans", 3)) * vision["patch_size"] ** 2
    block = 4 * width * width + 4 * width + 3 * width * inner + 2 * inner + width + 2 * width
    merged = width * vision["spatial_merge_size"] ** 2
    merger = width + merged * merged + merged + merged * out + out
    return patch * vision["temporal_patch_size"] * width + vision["depth"] * block + merger
