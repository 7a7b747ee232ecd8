"""Memory a rank needs by model size: computed from a config, without building the model."""

from dataclasses import dataclass
from typing import Any

from covt_runtime.engine.optimizer_settings import ZeroConfig
from covt_sft.sft_recipe import SftConfig

BF16, FP32 = 2, 4
GIB = 2**30


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a Qwen2.5-VL: the language model with its head, and the vision tower."""

    language: int
    vision: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> "ModelSize":
        """Counted from a checkpoint's config.json."""
        text, sight = config.get("text_config") or config, config["vision_config"]
        hidden, layers, inner = text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"]
        heads = text["num_attention_heads"]
        keys = hidden // heads * text.get("num_key_value_heads", heads)
        attention = 2 * hidden * hidden + 2 * hidden * keys + hidden + 2 * keys
        layer = attention + 3 * hidden * inner + 2 * hidden
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        embeddings = text["vocab_size"] * hidden * (1 if tied else 2)
        return cls(
            language=layers * layer + hidden + embeddings,
            vision=_vision(sight),
            layers=layers,
            hidden=hidden,
            intermediate=inner,
            vocabulary=text["vocab_size"],
        )


def _vision(sight: dict[str, Any]) -> int:
    width, inner, out = sight["hidden_size"], sight["intermediate_size"], sight["out_hidden_size"]
    patch = sight.get("in_channels", sight.get("in_chans", 3)) * sight["patch_size"] ** 2
    block = 4 * width * width + 4 * width + 3 * width * inner + 2 * inner + width + 2 * width
    merged = width * sight["spatial_merge_size"] ** 2
    merger = width + merged * merged + merged + merged * out + out
    return patch * sight["temporal_patch_size"] * width + sight["depth"] * block + merger


@dataclass(frozen=True)
class Memory:
    """Bytes a rank needs, computed, not measured: what lies on the training device, and what is offloaded."""

    device: dict[str, float]
    host: dict[str, float]

    @property
    def device_total(self) -> float:
        return sum(self.device.values())

    @property
    def host_total(self) -> float:
        return sum(self.host.values())


def adapter_parameters(size: ModelSize, text: dict[str, Any], rank: int) -> int:
    """Trained parameters of LoRA on all linear layers: rank · (inputs + outputs) each."""
    keys = size.hidden // text["num_attention_heads"] * text.get("num_key_value_heads", text["num_attention_heads"])
    attention = 2 * (2 * size.hidden) + 2 * (size.hidden + keys)
    return rank * size.layers * (attention + 3 * (size.hidden + size.intermediate))


def memory(size: ModelSize, config: SftConfig, ranks: int, *, trainable: int, tokens: int) -> Memory:
    """Memory of one of `ranks` ranks.

    trainable: parameters with gradients. tokens: of one forward. Sharded: weights in the recipe's dtype, and for each
    trained one its fp32 copy, AdamW's two moments, its gradient and, for an `ema` teacher, its average.
    """
    width = BF16 if config.zero.dtype == "bf16" else FP32
    zero = config.zero
    places: dict[str, dict[str, float]] = {"none": {}, "cpu": {}, "nvme": {}}
    places[zero.offload_parameters]["weights"] = (size.language + _extra(size, trainable)) * width / ranks
    places[zero.offload_optimizer]["optimizer"] = 3 * FP32 * trainable / ranks
    places[zero.offload_optimizer]["gradients"] = FP32 * trainable / ranks
    ema = config.method == "latent" and config.latent.selection == "ilvr" and config.latent.teacher == "ema"
    device = places["none"]
    device["teacher"] = FP32 * trainable / ranks if ema else 0.0
    device["gathered"] = float(_gathered(size, zero, trainable) * width)
    device["vision tower"] = float(size.vision * width)
    device["picture features"] = config.data.feature_cache_gib * GIB
    device["activations"] = float(_activations(size, tokens, width, config.model.gradient_checkpointing))
    return Memory(device, places["cpu"])


def _extra(size: ModelSize, trainable: int) -> int:
    """Adapters come on top of the language model's own weights."""
    return trainable if trainable < size.language else 0


def _gathered(size: ModelSize, zero: ZeroConfig, trainable: int) -> int:
    """Elements of whole parameters and of gradient buckets that a rank holds at once."""
    if zero.gather == "step":
        return size.language + trainable
    live = min(size.language, zero.max_live_parameters + zero.prefetch_bucket_size)
    return live + min(zero.reduce_bucket_size, trainable)


def _activations(size: ModelSize, tokens: int, width: int, checkpointing: bool) -> int:
    """One layer's working set and, of the others, its input or (without checkpointing) all of it; keys, values and
    the logits of a quarter of the tokens in fp32, three times over (logits, their softmax, its gradient)."""
    layer = tokens * (10 * size.hidden + 4 * size.intermediate) * width
    kept = tokens * size.hidden * width if checkpointing else layer
    logits = tokens // 4 * size.vocabulary * FP32 * 3
    return layer + size.layers * kept + logits
