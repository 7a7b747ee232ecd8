"""Memory that one rank of a training needs, computed from the model's shape and the recipe. Nothing is measured.

`covt sft` and `covt rl` describe their model as a `ModelShape` and their recipe as `TrainingSettings`;
`estimate_memory` returns named parts in bytes, each with the recipe key that lowers it. Importing this needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from covt_runtime.engine.optimizer_settings import ZeroConfig
from covt_runtime.recipe_schema import LoraSection
from covt_runtime.runtime_errors import ConfigError

BF16_BYTES, FP32_BYTES = 2, 4
GIB = 2**30
LOGITS_CHUNK = 64 << 20
"""Bytes of logits at a time, with everything derived from them, of `covt_model.latents.output_head`."""

Place = Literal["none", "cpu", "nvme"]
"""Where a part lies, in the words of `zero.offload_*`: `none` is the training device."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model that its memory follows from.

    Attributes:
        language: parameters of the language model with its output head; a tied head counts once.
        vision: parameters of the vision tower, which is frozen and whole on every rank.
        layers: decoder layers.
        hidden: width of a hidden state.
        intermediate: inner width of a layer's MLP.
        vocabulary: rows of the output head.
        linears: for each name of a linear layer (`q_proj`, …), its inputs plus outputs, summed over all layers.
    """

    language: int
    vision: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    linears: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of a training that its memory follows from.

    Attributes:
        zero, lora: the recipe's sections.
        ranks: training processes on all machines.
        tokens: tokens of the largest forward on one rank, padding included.
        tokens_key: the recipe key that lowers `tokens`.
        gradient_checkpointing: whether a layer's activations are recomputed in the backward pass.
        copies: further fp32 copies of the trained weights, sharded like them: the name of each (`teacher`,
            `reference`), with the recipe key that removes it.
        feature_cache: bytes for vision features on the training device.
    """

    zero: ZeroConfig
    lora: LoraSection
    ranks: int
    tokens: int
    tokens_key: str
    gradient_checkpointing: bool
    copies: Mapping[str, str] = field(default_factory=dict[str, str])
    feature_cache: float = 0.0


@dataclass(frozen=True)
class MemoryPart:
    """One part of a rank's memory."""

    name: str
    bytes: float
    place: Place
    lowered_by: str
    """The recipe key, or an assignment to one, that lowers this part; several are separated by ` or `."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The parts of one rank's memory at its fullest."""

    parts: tuple[MemoryPart, ...]

    def at(self, place: Place) -> dict[str, float]:
        """Bytes of each part at one place, by the part's name."""
        return {part.name: part.bytes for part in self.parts if part.place == place}

    @property
    def device_total(self) -> float:
        """Bytes on the training device."""
        return sum(self.at("none").values())

    @property
    def host_total(self) -> float:
        """Bytes offloaded to the host's memory."""
        return sum(self.at("cpu").values())

    def remedies(self, place: Place = "none", count: int = 3) -> str:
        """The largest parts at one place, each with its size and the recipe key that lowers it, for error messages."""
        largest = sorted((part for part in self.parts if part.place == place), key=lambda part: -part.bytes)
        return ", ".join(
            f"{part.name} ({part.bytes / GIB:.1f} GiB) by {part.lowered_by}" for part in largest[:count] if part.bytes
        )

    def lines(self, owner: str) -> list[str]:
        """One line for each place that holds anything, in GiB.

        Args:
            owner: what the numbers are of, such as "a trainer rank".
        """
        places: dict[Place, str] = {"none": owner, "cpu": f"{owner}, in host memory", "nvme": f"{owner}, on NVMe"}
        return [
            f"{name}: {sum(found.values()) / GIB:.2f} GiB ("
            + ", ".join(f"{part} {size / GIB:.2f}" for part, size in found.items() if size)
            + ")"
            for place, name in places.items()
            if any((found := self.at(place)).values())
        ]

    def as_dict(self) -> list[dict[str, str | float]]:
        """For `--json`: one object for each part that is not empty."""
        return [
            {"part": part.name, "bytes": part.bytes, "place": part.place, "lowered_by": part.lowered_by}
            for part in self.parts
            if part.bytes
        ]


def adapter_parameters(shape: ModelShape, lora: LoraSection) -> int:
    """Trained parameters of LoRA: rank · (inputs + outputs) of each target; 0 without adapters.

    Raises:
        ConfigError: a target that the model doesn't have.
    """
    if not lora.rank:
        return 0
    unknown = [target for target in lora.targets if target not in shape.linears]
    if unknown:
        raise ConfigError(
            f"lora.targets: the model has no {unknown[0]}",
            f"set lora.targets to linear layers of the language model: {', '.join(sorted(shape.linears))}",
        )
    return lora.rank * sum(shape.linears[target] for target in set(lora.targets))


def estimate_memory(shape: ModelShape, settings: TrainingSettings) -> MemoryEstimate:
    """Memory of one rank at its fullest.

    Sharded over the ranks: the weights in `zero.dtype`, and for each trained parameter its fp32 copy, AdamW's two
    moments, its fp32 gradient and its part of each of `copies`. Whole on each rank: parameters
    gathered for a forward, gradient buckets, the vision tower, cached features and activations.

    Raises:
        ConfigError: `lora.targets` names a layer that the model doesn't have.
    """
    zero = settings.zero
    width = BF16_BYTES if zero.dtype == "bf16" else FP32_BYTES
    adapters = adapter_parameters(shape, settings.lora)
    held = shape.language + adapters
    trained = adapters or shape.language
    sharded = FP32_BYTES * trained / settings.ranks
    fewer = "lora.rank=16" if not settings.lora.rank else "lora.rank"
    parts = (
        MemoryPart("weights", held * width / settings.ranks, zero.offload_parameters, "zero.offload_parameters=cpu"),
        MemoryPart("optimizer", 3 * sharded, zero.offload_optimizer, f"zero.offload_optimizer=cpu or {fewer}"),
        MemoryPart("gradients", sharded, zero.offload_optimizer, f"zero.offload_optimizer=cpu or {fewer}"),
        *(MemoryPart(name, sharded, "none", key) for name, key in settings.copies.items()),
        MemoryPart("gathered", float(_gathered(shape, zero, held, trained) * width), "none", _gather_key(zero)),
        MemoryPart("vision tower", float(shape.vision * width), "none", "model.path"),
        MemoryPart("image features", settings.feature_cache, "none", "data.feature_cache_gib"),
        MemoryPart("activations", float(_activations(shape, settings, width)), "none", _activation_key(settings)),
    )
    return MemoryEstimate(parts)


def _gathered(shape: ModelShape, zero: ZeroConfig, held: int, trained: int) -> int:
    """Elements of whole parameters and of gradient buckets that a rank holds at once.

    With `gather = "step"`, gradients are whole until the backward pass of the latent steps ends. A bucket is a copy of
    its gradients, of which the reduction makes another; a message of gathered parameters is a second copy of them.
    """
    if zero.gather == "step":
        buckets = trained + 2 * min(zero.reduce_bucket_size, trained)
        return held + max(buckets, min(zero.prefetch_bucket_size, held))
    live = min(shape.language, zero.max_live_parameters + zero.prefetch_bucket_size)
    return live + min(zero.reduce_bucket_size, trained)


def _gather_key(zero: ZeroConfig) -> str:
    return "zero.gather=module" if zero.gather == "step" else "zero.max_live_parameters"


def _activations(shape: ModelShape, settings: TrainingSettings, width: int) -> int:
    """Bytes of one layer's working set, of what the other layers keep, and of a chunk of logits.

    A layer keeps its input, or without gradient checkpointing everything.
    """
    tokens = settings.tokens
    layer = tokens * (10 * shape.hidden + 4 * shape.intermediate) * width
    kept = tokens * shape.hidden * width if settings.gradient_checkpointing else layer
    logits = min(LOGITS_CHUNK, tokens * shape.vocabulary * FP32_BYTES)
    return layer + shape.layers * kept + logits


def _activation_key(settings: TrainingSettings) -> str:
    if settings.gradient_checkpointing:
        return settings.tokens_key
    return f"model.gradient_checkpointing=true or {settings.tokens_key}"
