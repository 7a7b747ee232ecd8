"""Estimates the memory of one training rank from the model's shape and the recipe, without measuring anything.

`covt sft` and `covt rl` describe their model as a `ModelShape` and their recipe as `TrainingSettings`;
`estimate_memory` returns named parts in bytes, each with the recipe key that lowers it. Importing this needs no torch.
`benchmarks/memory_plan.py` compares the sum with measured peaks.
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
EXPORT_BUCKET = 64 << 20
"""Bytes of weights that are gathered together for an export."""
SUB_GROUP = 1_000_000_000
"""Elements that DeepSpeed's optimizer step takes at a time (its default `sub_group_size`)."""
CPU_PROCESS = 0.8 * GIB
"""Resident set of a rank on a CPU before it has a model: Python, torch, DeepSpeed, Transformers and a tokenizer.
Measured with torch 2.13; 0.33 GiB of it are code, which all processes share."""
MAIN_PROCESS = 0.6 * GIB
"""The process that starts the ranks. An estimate."""
GPU_PROCESS = 1.5 * GIB
"""What a process always keeps on a GPU: CUDA's context, kernels and communicators. An assumption."""

Place = Literal["none", "cpu", "nvme", "file"]
"""Where a part lies, in the words of `zero.offload_*`: `none` is the training device. `file`: pages of the checkpoint's
files, which the system can take back."""


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """Sizes of a vision tower's block: its width, the inner width of its MLP, and values per patch of an image."""

    hidden: int
    intermediate: int
    patch: int
    merged: int = 4
    """Patches per visual token."""


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
        key_width: width of a layer's keys, all heads together.
        tower: the vision tower's blocks; None leaves its forward out.
    """

    language: int
    vision: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    linears: Mapping[str, int]
    key_width: int = 0
    tower: VisionShape | None = None

    @property
    def largest(self) -> int:
        """Elements of the largest parameter, the embedding."""
        return self.vocabulary * self.hidden


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
        unrolls: whether latents are generated while training, in several forwards of one backward pass.
        patches: most image patches of a forward of the vision tower.
        on_gpu: whether the training device is a GPU. On CPUs the weights that adapters leave frozen and the vision
            tower stay in the checkpoint's files.
        sample_cache: bytes of encoded rows in host memory.
    """

    zero: ZeroConfig
    lora: LoraSection
    ranks: int
    tokens: int
    tokens_key: str
    gradient_checkpointing: bool
    copies: Mapping[str, str] = field(default_factory=dict[str, str])
    feature_cache: float = 0.0
    unrolls: bool = False
    patches: int = 0
    on_gpu: bool = True
    sample_cache: float = 0.0

    @property
    def width(self) -> int:
        """Bytes of a weight or activation."""
        return BF16_BYTES if self.zero.dtype == "bf16" else FP32_BYTES


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
    def total(self) -> float:
        """Bytes of one rank in memory of a machine whose training device is its CPU."""
        return sum(part.bytes for part in self.parts if part.place != "nvme")

    def machine_total(self, ranks: int) -> float:
        """Bytes of so many ranks on such a machine, with the process that starts them; they share the vision tower."""
        shared = sum(part.bytes for part in self.parts if part.name == "vision tower" and part.place == "file")
        return ranks * (self.total - shared) + shared + MAIN_PROCESS

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
        """For people: for each place that holds anything its sum, and below it each part with what lowers it.

        Args:
            owner: what the numbers are of, such as "a trainer rank".
        """
        places: dict[Place, str] = {
            "none": owner,
            "cpu": f"{owner}, in host memory",
            "nvme": f"{owner}, on NVMe",
            "file": f"{owner}, in pages of the checkpoint's files, which are memory that can be taken back",
        }
        lines: list[str] = []
        for place, name in places.items():
            parts = [part for part in self.parts if part.place == place and part.bytes]
            if not parts:
                continue
            lines.append(f"{name}: {sum(part.bytes for part in parts) / GIB:.2f} GiB")
            lines += [f"  {part.bytes / GIB:7.2f}  {part.name} (lowered by {part.lowered_by})" for part in parts]
        return lines

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
    moments, its fp32 gradient and its part of each of `copies`. Whole on each rank: gathered parameters, gradients
    until they are reduced, the vision tower, cached features and activations.

    Raises:
        ConfigError: `lora.targets` names a layer that the model doesn't have.
    """
    zero, width = settings.zero, settings.width
    adapters = adapter_parameters(shape, settings.lora)
    trained = adapters or shape.language
    sharded = FP32_BYTES * trained / settings.ranks
    fewer = "lora.rank=16" if not settings.lora.rank else "lora.rank"
    optimizer_key = f"zero.offload_optimizer=cpu or {fewer}"
    frozen = shape.language if adapters else 0
    maps = not settings.on_gpu and zero.offload_parameters == "none"
    frozen_place: Place = "file" if maps else zero.offload_parameters
    process = GPU_PROCESS if settings.on_gpu else CPU_PROCESS
    reduced = _reduction(shape, settings, trained)
    backward = {**_activations(shape, settings), **reduced}
    keys = {**dict.fromkeys(reduced, fewer), "gradient buckets": f"zero.reduce_bucket_size or {fewer}"}
    step = FP32_BYTES * min(trained / settings.ranks, SUB_GROUP)
    parts = (
        MemoryPart("process", process, "none", "run.ranks"),
        MemoryPart("weights", trained * width / settings.ranks, zero.offload_parameters,
                   "zero.offload_parameters=cpu"),
        MemoryPart("frozen weights", frozen * width / settings.ranks, frozen_place, "zero.offload_parameters=cpu"),
        MemoryPart("optimizer", 3 * sharded, zero.offload_optimizer, optimizer_key),
        MemoryPart("gradients", sharded, zero.offload_optimizer, optimizer_key),
        *(MemoryPart(name, sharded, "none", key) for name, key in settings.copies.items()),
        MemoryPart("gathered", _gathered(shape, zero, shape.language + adapters) * width, "none", _gather_key(zero)),
        MemoryPart("vision tower", float(shape.vision * width), "none" if settings.on_gpu else "file", "model.path"),
        MemoryPart("image features", settings.feature_cache, "none", "data.feature_cache_gib"),
        MemoryPart("encoded rows", settings.sample_cache, "cpu", "data.sample_cache_gib"),
        *(MemoryPart(name, size, "none", keys.get(name) or _activation_key(name, settings))
          for name, size in backward.items()),
        # The optimizer flattens the gradients of its step, when activations are gone.
        MemoryPart("optimizer step", max(0.0, step - sum(backward.values())), zero.offload_optimizer, optimizer_key),
    )  # fmt: skip
    return MemoryEstimate(parts)


def _reduction(shape: ModelShape, settings: TrainingSettings, trained: int) -> dict[str, float]:
    """Bytes of gradients that are whole on each rank.

    Where all parameters are gathered for a step, or latents are generated, every gradient is complete only at the end
    of the backward pass. A bucket is a copy of its gradients, of which the reduction makes another.
    """
    zero, width = settings.zero, settings.width
    waits = zero.gather == "step" or settings.unrolls
    return {
        "whole gradients": float((trained if waits else min(trained, shape.largest)) * width),
        "gradient buckets": float(2 * min(zero.reduce_bucket_size, trained) * width),
    }


def _gathered(shape: ModelShape, zero: ZeroConfig, held: int) -> float:
    """Elements of whole parameters that a rank holds at once, with the copy that a message makes of them.

    An export gathers a bucket, at least the largest parameter, and copies it once where adapters are merged.
    """
    message = max(zero.prefetch_bucket_size, shape.largest)
    if zero.gather == "step":
        return held + min(message, held)
    live = max(zero.max_live_parameters, zero.max_reuse_distance) + message
    return max(min(held, live), 2 * shape.largest)


def _gather_key(zero: ZeroConfig) -> str:
    return "zero.gather=module" if zero.gather == "step" else "zero.max_live_parameters and zero.max_reuse_distance"


def _activations(shape: ModelShape, settings: TrainingSettings) -> dict[str, float]:
    """Bytes of what a forward keeps for the backward pass, and of what is computed at a time.

    For a token a layer keeps its input, the two normed inputs, queries, attention and their sum with the input, keys
    and values once more for every head (9 H), keys and values, and three times the inner width of the MLP. With
    gradient checkpointing it keeps its input, and one layer at a time the rest. Generated latents lie with all other
    tokens in buffers of keys and values, which have gradients of the same size.
    """
    tokens, width, hidden, inner, keys = (
        settings.tokens, settings.width, shape.hidden, shape.intermediate, shape.key_width,
    )  # fmt: skip
    layer = tokens * (9 * hidden + 2 * keys + 3 * inner) * width
    working = tokens * (4 * inner + 4 * hidden) * width
    kept = tokens * hidden * width if settings.gradient_checkpointing else layer
    buffers = 4 * shape.layers * keys * tokens * width if settings.unrolls else 0
    parts = {
        "activations": float(shape.layers * kept + working + (layer if settings.gradient_checkpointing else 0)),
        "keys and values": float(buffers),
        "logits": float(min(LOGITS_CHUNK, tokens * shape.vocabulary * FP32_BYTES)),
    }
    if shape.tower is not None and settings.patches:
        tower = shape.tower
        patches = min(settings.patches, tower.merged * tokens)
        parts["vision forward"] = float(patches * (3 * tower.intermediate + 8 * tower.hidden + 3 * tower.patch) * width)
    return parts


def _activation_key(name: str, settings: TrainingSettings) -> str:
    if name == "vision forward":
        return "data.vision_patches or data.max_pixels"
    if name == "activations" and not settings.gradient_checkpointing:
        return f"model.gradient_checkpointing=true or {settings.tokens_key}"
    return settings.tokens_key
