"""The shape of a model, counted from its config.json without building or downloading the model."""

from typing import Any

from covt_runtime.engine.memory_estimate import ModelShape, VisionShape


def model_shape(config: dict[str, Any], *, layer_vectors: int, vision_parameters: int) -> ModelShape:
    """The shape that a checkpoint's config.json describes; its language settings may stand in `text_config`.

    Args:
        config: the content of config.json.
        layer_vectors: parameters of a decoder layer beside its matrices and the norms of its two inputs.
        vision_parameters: parameters of the vision tower.
    """
    text, vision = config.get("text_config") or config, config["vision_config"]
    hidden, layers, inner = text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"]
    linears = linear_sizes(text)
    width, key_width = head_widths(text)
    norms = 2 * hidden
    matrices = 2 * hidden * width + 2 * hidden * key_width + 3 * hidden * inner
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    embeddings = text["vocab_size"] * hidden * (1 if tied else 2)
    return ModelShape(
        language=layers * (matrices + layer_vectors + norms) + hidden + embeddings,
        vision=vision_parameters,
        layers=layers,
        hidden=hidden,
        intermediate=inner,
        vocabulary=text["vocab_size"],
        linears={name: layers * size for name, size in linears.items()},
        key_width=key_width,
        tower=tower_shape(vision),
    )


def head_widths(text: dict[str, Any]) -> tuple[int, int]:
    """Widths of a layer's queries and of its keys, all heads together; `head_dim` may be its own setting."""
    heads = text["num_attention_heads"]
    head_size = text.get("head_dim") or text["hidden_size"] // heads
    return head_size * heads, head_size * text.get("num_key_value_heads", heads)


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
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    width, key_width = head_widths(text)
    attention = {"q_proj": hidden + width, "k_proj": hidden + key_width, "v_proj": hidden + key_width}
    return attention | {"o_proj": width + hidden} | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)
