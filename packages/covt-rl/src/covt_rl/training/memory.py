"""Where trainer and server of a job go, and an estimate of the memory each needs. Computed, not measured."""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from covt_model.latent_config import read_config
from covt_rl.rl_recipe import RlConfig
from covt_rollout.rollout_errors import RolloutError
from covt_runtime.launch.workers import CPU_RANKS
from covt_runtime.process_environment import launched_from_outside, place_in_group, ranks_here, visible_gpus
from covt_runtime.recipe_schema import LoraSection

BF16, FP32 = 2, 4
GIB = 2**30
# What a process keeps on a GPU whatever it frees: CUDA's context, kernels, communicators. An assumption.
CONTEXT = 1.5 * GIB


@dataclass(frozen=True)
class Placement:
    """Which devices do what.

    Attributes:
        ranks: training processes, on all machines.
        trainer, server: GPU numbers of this machine; empty on a CPU, and for a server that runs elsewhere.
        replicas: servers with a copy of the model each.
        by_turns: the server sleeps while the trainer computes, see `server.sleep`.
        here: those of the ranks that another launcher started on this machine; None where it started none.
        first: rank 0 is on this machine, and with it the server that `covt rl` starts.
    """

    ranks: int
    trainer: tuple[int, ...]
    server: tuple[int, ...]
    replicas: int
    by_turns: bool = False
    here: int | None = None
    first: bool = True

    @classmethod
    def of(cls, config: RlConfig, gpus: int | None = None) -> "Placement":
        """gpus: of this machine, found by default. The server's are the first, the trainer has the others."""
        found = visible_gpus() if gpus is None else gpus
        outside = launched_from_outside()
        here, first = ranks_here() if outside else (None, True)
        own = min(config.server.gpus, found) if first and not config.rollout.base_url else 0
        rest = tuple(range(own, found))
        ranks = place_in_group()[2] if outside else config.run.ranks or len(rest) or CPU_RANKS
        trainer = rest[: here or ranks]
        shared = len(trainer) if config.server.sleep and not config.rollout.base_url else own
        replicas = max(1, shared // config.server.tensor_parallel)
        return cls(ranks, trainer, tuple(range(own)), replicas, config.server.sleep, here, first)

    def __str__(self) -> str:
        ranks = f"{self.ranks} trainer ranks"
        if self.trainer and len(self.trainer) < self.ranks:
            ranks += f", {len(self.trainer)} of them on this machine,"
        if self.by_turns and self.trainer:
            servers = f"{self.replicas} servers" if self.replicas > 1 else "the server"
            return f"{ranks} and {servers} on GPUs {self.trainer} by turns"
        if not self.trainer:
            unable = ", which has no sleep mode: server.sleep needs a GPU" if self.by_turns else ""
            return f"{ranks} and the server on the CPU{unable}"
        shared = "the server elsewhere or beside rank 0" if not self.server else f"the server on GPUs {self.server}"
        return f"{ranks} on GPUs {self.trainer}, {shared}"


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for, of one trainer rank and of one GPU of the server.

    phases: of a GPU that the two share by turns (`server.sleep`), by what happens on it.
    """

    trainer: dict[str, float]
    server: dict[str, float]
    phases: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people, in GiB."""
        turns = [f"a shared GPU while {phase}: {size / GIB:.2f} GiB" for phase, size in self.phases.items()]
        return turns + [
            f"{name}: {sum(parts.values()) / GIB:.2f} GiB ("
            + ", ".join(f"{part} {size / GIB:.2f}" for part, size in parts.items() if size)
            + ")"
            for name, parts in (("a trainer rank", self.trainer), ("a server device", self.server))
        ]


def count_parameters(checkpoint: Path) -> tuple[int, int]:
    """Parameters of the language model and of the vision tower, from the headers of the safetensors."""
    language = vision = 0
    for name, shape in tensor_shapes(checkpoint):
        if "visual." in name:
            vision += prod(shape)
        else:
            language += prod(shape)
    return language, vision


def tensor_shapes(checkpoint: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor, from the headers of the safetensors."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def adapter_parameters(checkpoint: Path, section: LoraSection) -> int:
    """Trained parameters of LoRA: rank · (inputs + outputs) of each target in the language model.

    Raises:
        RolloutError: a target that the language model doesn't have.
    """
    if not section.rank:
        return 0
    total = 0
    language = [(name, sum(shape)) for name, shape in tensor_shapes(checkpoint) if "visual." not in name]
    for target in section.targets:
        sizes = [size for name, size in language if name.endswith(f".{target}.weight")]
        if not sizes:
            raise RolloutError(
                f"lora.targets: {checkpoint} has no {target}",
                "name linear layers of the language model, such as q_proj",
            )
        total += section.rank * sum(sizes)
    return total


def estimate(checkpoint: Path, config: RlConfig, placement: Placement) -> Memory:
    """What one rank and one server device hold at their fullest.

    Trainer, sharded: weights, and of what is trained the fp32 copy, AdamW's two moments, the gradients, and with a KL
    the reference, in fp32. Not sharded: parameters gathered for a forward, the frozen vision tower, activations of one
    micro-batch.
    Server: weights, keys and values of `max_num_seqs` completions of prompt and answer.
    """
    language, vision = count_parameters(checkpoint)
    text = read_config(checkpoint)
    text = text.get("text_config") or text
    width = BF16 if config.zero.dtype == "bf16" else FP32
    adapters = adapter_parameters(checkpoint, config.lora)
    trained, held = (adapters, language + adapters) if config.lora.rank else (language, language)
    # One gather a step holds the whole model and its gradients.
    gathered = held + trained if config.zero.gather == "step" else min(held, config.zero.max_live_parameters)
    ranks = placement.ranks
    tokens = config.algorithm.micro_tokens or config.data.micro_batch * config.data.max_length
    trainer = {
        "weights": held * width / ranks,
        "optimizer": 3 * FP32 * trained / ranks,
        "gradients": FP32 * trained / ranks,
        "reference": FP32 * trained / ranks if config.algorithm.kl_weight else 0.0,
        "gathered": float(gathered * width),
        "vision tower": float(vision * width),
        "activations": float(_activations(text, tokens, width, config.model.gradient_checkpointing)),
    }
    if config.zero.offload_optimizer != "none":
        trainer |= {"optimizer": 0.0, "gradients": 0.0}
    heads = text["num_attention_heads"]
    keys = text["hidden_size"] // heads * text.get("num_key_value_heads", heads)
    served = FP32 if config.server.dtype == "float32" or config.zero.dtype == "fp32" else BF16
    length = config.server.max_model_len or config.data.max_length
    split = config.server.tensor_parallel
    server = {
        "weights": (language + vision) * served / split,
        "keys and values": 2
        * text["num_hidden_layers"]
        * keys
        * served
        * min(config.server.max_num_seqs, config.rollout.prompts * config.rollout.samples)
        * length
        / split,
    }
    return Memory(trainer, server, _phases(trainer, server) if config.server.sleep else {})


def _phases(trainer: dict[str, float], server: dict[str, float]) -> dict[str, float]:
    """What both processes hold together on a GPU that they share by turns.

    The trainer gathers and writes its weights before it leaves, so they never lie beside the server's.
    """
    sizes = {
        "the trainer updates, the server asleep": sum(trainer.values()),
        "the server loads weights": server["weights"],
        "the server samples, the trainer on the host": sum(server.values()),
    }
    return {phase: size + 2 * CONTEXT for phase, size in sizes.items()}


def check_machine(config: RlConfig, placement: Placement, memory: Memory, host_bytes: int | None = None) -> None:
    """Raise RolloutError where this machine lacks the GPUs that the recipe names, or on a CPU the memory for what is
    certain: weights, optimizer and gradients of its ranks, and the server's weights. host_bytes: of this machine.
    """
    gpus = len(placement.trainer) + len(placement.server)
    if config.server.sleep and not gpus:
        raise RolloutError(
            "server.sleep = true, but this machine has no GPU to share: vLLM's CPU build has no sleep mode",
            "set server.sleep = false",
        )
    starts = placement.first and not config.rollout.base_url
    if starts and config.server.gpus and len(placement.server) < config.server.gpus:
        raise RolloutError(
            f"server.gpus = {config.server.gpus}, this machine has {gpus} GPUs",
            "run it on a machine that has them, or set server.gpus",
        )
    if config.server.gpus and not placement.trainer:
        raise RolloutError(
            f"server.gpus = {config.server.gpus} leaves no GPU for the trainer", "give the server fewer GPUs"
        )
    if gpus and placement.here and len(placement.trainer) < placement.here:
        raise RolloutError(
            f"{placement.here} ranks were started on this machine, which has {gpus} GPUs, {len(placement.server)} of "
            "them the server's",
            f"start {len(placement.trainer)} ranks here, or a server elsewhere and set rollout.base_url",
        )
    if gpus:
        return
    have = host_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    certain = sum(memory.trainer[part] for part in ("weights", "optimizer", "gradients", "reference"))
    need = (placement.here or placement.ranks) * certain + (memory.server["weights"] if starts else 0)
    if need > have:
        raise RolloutError(
            f"the training needs {need / GIB:.0f} GiB at least, this machine has {have / GIB:.0f} GiB and no GPU",
            "run it on GPUs (`covt rl NAME --dry-run` prints what they must hold), or train a smaller model",
        )


def _activations(text: dict[str, int], tokens: int, width: int, checkpointing: bool) -> int:
    """One layer's working set; of the others their input or (without checkpointing) all of it; and three copies of
    the logits of a quarter of the tokens, in fp32."""
    layer = tokens * (10 * text["hidden_size"] + 4 * text["intermediate_size"]) * width
    kept = tokens * text["hidden_size"] * width if checkpointing else layer
    return layer + text["num_hidden_layers"] * kept + tokens // 4 * text["vocab_size"] * FP32 * 3
