"""Estimate the memory of a GRPO training's ranks and server from the model's shape and the recipe."""

import json
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from covt_data.images.pixel_limits import PixelLimits
from covt_data.schema import Row
from covt_data.stream.row_tokens import longest_row
from covt_model.families import read_image_settings
from covt_model.latent_config import read_config
from covt_model.model_errors import ModelError
from covt_rl.planning.placement import Placement
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.weights.weight_folder import COPIES
from covt_runtime.engine.memory_estimate import (
    BF16_BYTES,
    FP32_BYTES,
    GIB,
    GPU_PROCESS,
    MemoryEstimate,
    MemoryPart,
    ModelShape,
    TrainingSettings,
    estimate_memory,
)
from covt_runtime.engine.memory_fit import COMMON_CHANGES, Change, settings_that_fit
from covt_runtime.engine.model_shape import head_widths, tower_shape
from covt_runtime.process_environment import Machine

BATCH_PATCHES = 16_384
"""Patches per forward of the vision tower, of `covt_model.encoding.vision_features`."""
CHANGES: Sequence[Change] = (
    {"server.dtype": "bfloat16"},
    {"algorithm.kl_weight": 0.0},
    *COMMON_CHANGES,
)
"""What an error proposes, the least costly first."""

SERVER_PROCESS = 1.5 * GIB
"""vLLM's two processes on a CPU before they have a model. An estimate."""
REWARD_PROCESS = 0.25 * GIB
"""The process that rewards are computed in. An estimate."""


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one trainer rank and of one device of the server.

    Attributes:
        trainer: the parts of one rank.
        server: the parts of one server device.
        published: bytes of one copy of the weights on their way to the server; `rollout.weight_folder` holds two.
        phases: bytes of a GPU that both use in turn (`server.sleep`), by what happens on it.
        machine: bytes of this machine's memory, where it has no GPU; 0 where it has.
        longest: estimated tokens of the longest prompt with its completion.
    """

    trainer: MemoryEstimate
    server: MemoryEstimate
    published: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    machine: float = 0.0
    longest: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "trainer": self.trainer.as_dict(),
            "server": self.server.as_dict(),
            "published": self.published,
            "phases": self.phases,
            "machine": self.machine,
            "longest": self.longest,
        }

    def lines(self) -> list[str]:
        """For people, in GiB."""
        phases = [f"a shared GPU while {phase}: {size / GIB:.2f} GiB" for phase, size in self.phases.items()]
        held = COPIES * self.published / GIB
        published = (
            f"rollout.weight_folder: {held:.2f} GiB for {COPIES} copies of the weights on their way to the server"
        )
        lines = [f"longest prompt and completion: about {self.longest} tokens"]
        lines += [*phases, *self.trainer.lines("a trainer rank"), *self.server.lines("a server device"), published]
        return [*lines, f"this machine: {self.machine / GIB:.2f} GiB"] if self.machine else lines


def checkpoint_shape(checkpoint: Path) -> ModelShape:
    """The model's shape, from its config.json and the headers of its safetensors files."""
    config = read_config(checkpoint)
    text = config.get("text_config") or config
    language = vision = 0
    linears: defaultdict[str, int] = defaultdict(int)
    for name, shape in tensor_shapes(checkpoint):
        if "visual." in name:
            vision += prod(shape)
            continue
        language += prod(shape)
        if ".layers." in name and len(shape) == 2:
            linears[name.removesuffix(".weight").rpartition(".")[2]] += sum(shape)
    return ModelShape(
        language=language,
        vision=vision,
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        intermediate=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        linears=linears,
        key_width=head_widths(text)[1],
        tower=tower_shape(config["vision_config"]) if "vision_config" in config else None,
    )


def tensor_shapes(checkpoint: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor, from the headers of the safetensors files."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def longest_rollout(rows: Sequence[Row], checkpoint: Path, config: RlConfig) -> int:
    """Estimated tokens of the longest prompt with a completion of `rollout.max_tokens`."""
    try:
        settings = read_image_settings(checkpoint)
        limits = PixelLimits(settings.min_pixels, settings.max_pixels, settings.cell)
    except ModelError:
        limits = PixelLimits()
    return min(config.data.max_length, longest_row(rows, limits, prompts=True) + config.rollout.max_tokens)


def plan_memory(checkpoint: Path, config: RlConfig, placement: Placement, longest: int = 0) -> MemoryPlan:
    """Estimate the peak memory of one rank and of one server device.

    Args:
        checkpoint: the model.
        config: the recipe.
        placement: which devices the processes get.
        longest: tokens of the longest prompt with its completion; 0 stands for `data.max_length`.

    Raises:
        ConfigError: `lora.targets` names a layer that the model doesn't have.
    """
    shape = checkpoint_shape(checkpoint)
    data, algorithm = config.data, config.algorithm
    longest = longest or data.max_length
    whole = data.micro_batch * longest
    on_gpu = bool(placement.trainer)
    settings = TrainingSettings(
        zero=config.zero,
        lora=config.lora,
        ranks=placement.ranks,
        tokens=min(algorithm.micro_tokens or whole, whole),
        tokens_key="algorithm.micro_tokens" if algorithm.micro_tokens else "data.micro_batch or data.max_length",
        gradient_checkpointing=config.model.gradient_checkpointing,
        copies={"reference": "algorithm.kl_weight=0"} if algorithm.kl_weight else {},
        unrolls=algorithm.latents == "recompute",
        patches=BATCH_PATCHES,
        on_gpu=on_gpu,
    )
    trainer = estimate_memory(shape, settings)
    server = _server_memory(shape, checkpoint, config, longest, on_gpu=on_gpu)
    width = FP32_BYTES if config.zero.dtype == "fp32" else BF16_BYTES
    published = (shape.language + shape.vision) * width
    phases = _phases(trainer, server) if config.server.sleep else {}
    machine = 0.0 if on_gpu else _machine_memory(trainer, server, published, config, placement)
    return MemoryPlan(trainer, server, published, phases, machine, longest)


def _server_memory(
    shape: ModelShape, checkpoint: Path, config: RlConfig, longest: int, *, on_gpu: bool
) -> MemoryEstimate:
    """Parts of one server device: weights, and keys and values of `max_num_seqs` completions of prompt and answer."""
    text = read_config(checkpoint).get("text_config") or read_config(checkpoint)
    section, devices = config.server, config.server.tensor_parallel
    full = section.dtype == "float32" or (section.dtype is None and not on_gpu) or config.zero.dtype == "fp32"
    width = FP32_BYTES if full else BF16_BYTES
    length = min(section.max_model_len or longest, longest)
    sequences = min(section.max_num_seqs, config.rollout.prompts * config.rollout.samples)
    cached = 2 * shape.layers * head_widths(text)[1] * width * sequences * length / devices
    parts = [
        MemoryPart("process", GPU_PROCESS if on_gpu else SERVER_PROCESS, "none", "rollout.base_url"),
        MemoryPart("weights", (shape.language + shape.vision) * width / devices, "none",
                   "server.dtype=bfloat16 or server.tensor_parallel"),
        MemoryPart("keys and values", cached if on_gpu else min(cached, float(ServerOptions().kv_cache_bytes)), "none",
                   "server.max_num_seqs"),
    ]  # fmt: skip
    if not on_gpu:
        # On CPUs vLLM multiplies with a packed copy of an output matrix that it shares with the embedding.
        parts.append(MemoryPart("packed head", float(shape.largest * width), "none", "server.dtype=bfloat16"))
    return MemoryEstimate(tuple(parts))


def _machine_memory(
    trainer: MemoryEstimate, server: MemoryEstimate, published: float, config: RlConfig, placement: Placement
) -> float:
    """Bytes of a machine without GPUs: its ranks, and beside rank 0 the server, its weights and the rewards."""
    total = trainer.machine_total(placement.here or placement.ranks)
    if placement.first:
        total += REWARD_PROCESS + (0 if config.rollout.weight_folder else COPIES * published)
        total += 0 if config.rollout.base_url else server.device_total
    return total


def _phases(trainer: MemoryEstimate, server: MemoryEstimate) -> dict[str, float]:
    """Bytes of both processes on a GPU that they use in turn.

    The trainer gathers and writes its weights before it leaves the GPU, so they are never there together with the
    server's.
    """
    sizes = {
        "the trainer updates, the server asleep": trainer.device_total + GPU_PROCESS,
        "the server loads weights": server.at("none")["weights"] + 2 * GPU_PROCESS,
        "the server samples, the trainer on the host": server.device_total + GPU_PROCESS,
    }
    return sizes


def check_machine(
    config: RlConfig,
    placement: Placement,
    memory: MemoryPlan,
    machine: Machine | None = None,
    estimate: Callable[[RlConfig], MemoryPlan] | None = None,
) -> None:
    """Refuse a training that this machine can't hold.

    Args:
        config: the recipe.
        placement: which devices the processes get.
        memory: what they need.
        machine: the devices of this machine and their memory; found by default.
        estimate: what they would need with another recipe, for proposals.

    Raises:
        RlError: the machine lacks the GPUs that the recipe names, or the memory.
    """
    _check_gpus(config, placement)
    machine = machine or Machine.here()
    for what, needed, has in _limits(placement, machine):
        need = needed(memory)
        if need <= has:
            continue
        found = ""
        if estimate is not None:
            found = settings_that_fit(
                config, CHANGES, lambda other: all(n(estimate(other)) <= h for _, n, h in _limits(placement, machine))
            )
        largest = f"trainer: {memory.trainer.remedies()}; server: {memory.server.remedies(count=2)}"
        raise RlError(
            f"{what} needs about {need / GIB:.1f} GiB and has {has / GIB:.1f} GiB",
            f"it fits with {found}"
            if found
            else f"use more GPUs or a smaller model, set rollout.weight_folder to a folder on a disk, or lower the "
            f"largest parts: {largest}",
        )


Limit = tuple[str, Callable[[MemoryPlan], float], float]


def _limits(placement: Placement, machine: Machine) -> list[Limit]:
    """What must fit where: its name, the bytes that a plan needs there, and those that the machine has."""
    if not placement.trainer:
        return [("this machine, which has no GPU,", lambda plan: plan.machine, machine.host_bytes)]
    here = len(placement.trainer)
    limits: list[Limit] = [
        ("each GPU of the trainer", lambda plan: plan.trainer.device_total, machine.gpu_bytes),
        ("this machine's memory", lambda plan: here * plan.trainer.host_total, machine.host_bytes),
    ]
    if placement.server:
        limits.append(("each GPU of the server", lambda plan: plan.server.device_total, machine.gpu_bytes))
    if placement.in_turn:
        limits.append(("each shared GPU", lambda plan: max(plan.phases.values(), default=0.0), machine.gpu_bytes))
    return limits


def _check_gpus(config: RlConfig, placement: Placement) -> None:
    gpus = len(placement.trainer) + len(placement.server)
    if config.server.sleep and not gpus:
        raise RlError(
            "server.sleep = true, but this machine has no GPU to share: vLLM's CPU build has no sleep mode",
            "set server.sleep = false",
        )
    starts = placement.first and not config.rollout.base_url
    if starts and config.server.gpus and len(placement.server) < config.server.gpus:
        raise RlError(
            f"server.gpus = {config.server.gpus}, this machine has {gpus} GPUs",
            "run it on a machine that has them, or set server.gpus",
        )
    if config.server.gpus and not placement.trainer:
        raise RlError(f"server.gpus = {config.server.gpus} leaves no GPU for the trainer", "give the server fewer GPUs")
    if gpus and placement.here and len(placement.trainer) < placement.here:
        raise RlError(
            f"{placement.here} ranks were started on this machine, which has {gpus} GPUs, {len(placement.server)} of "
            "them the server's",
            f"start {len(placement.trainer)} ranks here, or a server elsewhere and set rollout.base_url",
        )
