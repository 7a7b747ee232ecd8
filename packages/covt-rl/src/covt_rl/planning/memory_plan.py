"""Estimate the memory of a GRPO training's ranks and server from the model's shape and the recipe."""

import json
import os
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from covt_model.latent_config import read_config
from covt_rl.planning.placement import Placement
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rollout.weights.weight_folder import COPIES
from covt_runtime.engine.memory_estimate import (
    BF16_BYTES,
    FP32_BYTES,
    GIB,
    MemoryEstimate,
    ModelShape,
    TrainingSettings,
    estimate_memory,
)

# Memory that a process always keeps on a GPU: CUDA's context, kernels, communicators. An assumption.
CONTEXT = 1.5 * GIB
# The parts of a rank that do not depend on the data.
CERTAIN = ("weights", "optimizer", "gradients", "reference")


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one trainer rank and of one device of the server.

    Attributes:
        trainer: the parts of one rank.
        server: bytes of one server device, by part.
        published: bytes of one copy of the weights on their way to the server; `rollout.weight_folder` holds two.
        phases: bytes of a GPU that both use in turn (`server.sleep`), by what happens on it.
    """

    trainer: MemoryEstimate
    server: dict[str, float]
    published: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "trainer": self.trainer.as_dict(),
            "server": self.server,
            "published": self.published,
            "phases": self.phases,
        }

    def lines(self) -> list[str]:
        """For people, in GiB."""
        phases = [f"a shared GPU while {phase}: {size / GIB:.2f} GiB" for phase, size in self.phases.items()]
        parts = ", ".join(f"{part} {size / GIB:.2f}" for part, size in self.server.items() if size)
        server = f"a server device: {sum(self.server.values()) / GIB:.2f} GiB ({parts})"
        held = COPIES * self.published / GIB
        published = (
            f"rollout.weight_folder: {held:.2f} GiB for {COPIES} copies of the weights on their way to the server"
        )
        return [*phases, *self.trainer.lines("a trainer rank"), server, published]


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
    )


def tensor_shapes(checkpoint: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor, from the headers of the safetensors files."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def plan_memory(checkpoint: Path, config: RlConfig, placement: Placement) -> MemoryPlan:
    """Estimate the peak memory of one rank and of one server device.

    Raises:
        ConfigError: `lora.targets` names a layer that the model doesn't have.
    """
    shape = checkpoint_shape(checkpoint)
    data, algorithm = config.data, config.algorithm
    settings = TrainingSettings(
        zero=config.zero,
        lora=config.lora,
        ranks=placement.ranks,
        tokens=algorithm.micro_tokens or data.micro_batch * data.max_length,
        tokens_key="algorithm.micro_tokens" if algorithm.micro_tokens else "data.micro_batch or data.max_length",
        gradient_checkpointing=config.model.gradient_checkpointing,
        copies={"reference": "algorithm.kl_weight=0"} if algorithm.kl_weight else {},
    )
    trainer, server = estimate_memory(shape, settings), _server_memory(shape, checkpoint, config)
    width = FP32_BYTES if config.zero.dtype == "fp32" else BF16_BYTES
    phases = _phases(trainer, server) if config.server.sleep else {}
    return MemoryPlan(trainer, server, (shape.language + shape.vision) * width, phases)


def _server_memory(shape: ModelShape, checkpoint: Path, config: RlConfig) -> dict[str, float]:
    """Weights, and keys and values of `max_num_seqs` completions of prompt and answer, on one server device."""
    model = read_config(checkpoint)
    text = model.get("text_config") or model
    heads = text["num_attention_heads"]
    key_width = shape.hidden // heads * text.get("num_key_value_heads", heads)
    width = FP32_BYTES if config.server.dtype == "float32" or config.zero.dtype == "fp32" else BF16_BYTES
    length = config.server.max_model_len or config.data.max_length
    sequences = min(config.server.max_num_seqs, config.rollout.prompts * config.rollout.samples)
    devices = config.server.tensor_parallel
    return {
        "weights": (shape.language + shape.vision) * width / devices,
        "keys and values": 2 * shape.layers * key_width * width * sequences * length / devices,
    }


def _phases(trainer: MemoryEstimate, server: dict[str, float]) -> dict[str, float]:
    """Bytes of both processes on a GPU that they use in turn.

    The trainer gathers and writes its weights before it leaves the GPU, so they are never there together with the
    server's.
    """
    sizes = {
        "the trainer updates, the server asleep": trainer.device_total,
        "the server loads weights": server["weights"],
        "the server samples, the trainer on the host": sum(server.values()),
    }
    return {phase: size + 2 * CONTEXT for phase, size in sizes.items()}


def check_machine(config: RlConfig, placement: Placement, memory: MemoryPlan, host_bytes: int | None = None) -> None:
    """Refuse a training that this machine can't hold.

    Without a GPU only the parts that are certain count: weights, optimizer, gradients and reference of this machine's
    ranks, the server's weights, and the copies in shared memory that wait for the server.

    Args:
        config: the recipe.
        placement: which devices the processes get.
        memory: what they need.
        host_bytes: memory of this machine; read from the system by default.

    Raises:
        RlError: the machine lacks the GPUs that the recipe names, or has no GPU and too little memory.
    """
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
    if gpus:
        return
    have = host_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    certain = sum(part.bytes for part in memory.trainer.parts if part.name in CERTAIN)
    waiting = COPIES * memory.published if placement.first and not config.rollout.weight_folder else 0
    need = (placement.here or placement.ranks) * certain + (memory.server["weights"] if starts else 0) + waiting
    if need > have:
        raise RlError(
            f"the training needs {need / GIB:.0f} GiB at least, this machine has {have / GIB:.0f} GiB and no GPU",
            "run it on GPUs (`covt rl NAME --dry-run` prints what they must hold), train a smaller model, or set "
            "rollout.weight_folder to a folder on a disk",
        )
