"""Refuse a training that this machine can't hold, before anything starts."""

from typing import Any

from covt_runtime.engine.memory_estimate import GIB, MemoryEstimate, TrainingSettings, estimate_memory
from covt_runtime.launch.workers import CPU_RANKS
from covt_runtime.process_environment import Machine, launched_from_outside, place_in_group
from covt_sft.planning.model_shape import model_shape
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig


def planned_ranks(config: SftConfig, gpus: int) -> int:
    """How many ranks will train on all machines, for a machine with this many GPUs."""
    if launched_from_outside():
        return place_in_group()[2]
    return config.run.ranks or gpus or CPU_RANKS


def training_memory(config: SftConfig, model: dict[str, Any], ranks: int) -> MemoryEstimate:
    """Memory of one rank.

    Args:
        config: the recipe.
        model: the checkpoint's config.json.
        ranks: training processes on all machines.

    Raises:
        ConfigError: `lora.targets` names a layer that the model doesn't have.
    """
    data = config.data
    longest = data.micro_batch * data.max_length
    averaged = config.method == "latent" and config.latent.selection == "ilvr" and config.latent.teacher == "ema"
    settings = TrainingSettings(
        zero=config.zero,
        lora=config.lora,
        ranks=ranks,
        tokens=min(data.micro_tokens or longest, longest),
        tokens_key="data.micro_tokens" if data.micro_tokens else "data.micro_batch or data.max_length",
        gradient_checkpointing=config.model.gradient_checkpointing,
        copies={"teacher": "latent.teacher=frozen"} if averaged else {},
        feature_cache=data.feature_cache_gib * GIB,
    )
    return estimate_memory(model_shape(model), settings)


def check_memory(need: MemoryEstimate, name: str, machine: Machine, ranks: int) -> None:
    """Refuse a training whose ranks don't fit this machine.

    Args:
        need: memory of one rank.
        name: what the error calls the model.
        machine: the devices of this machine.
        ranks: training processes on all machines.

    Raises:
        SftError: one rank needs more than a GPU has, or the ranks of this machine more than its host memory.
    """
    smaller = f"use more GPUs or a smaller model, or lower the largest parts: {need.remedies()} (see docs/training.md)"
    if not machine.gpus:
        # The cache of image features only grows as large as the data's images make it.
        whole = ranks * (need.device_total + need.host_total - need.at("none")["image features"])
        if whole > machine.host_bytes:
            raise SftError(
                f"{name} on {ranks} CPU ranks needs about {whole / GIB:.0f} GiB and this machine, which has no GPU, "
                f"has {machine.host_bytes / GIB:.0f} GiB",
                smaller,
            )
        return
    if need.device_total > machine.gpu_bytes:
        raise SftError(
            f"{name} on {ranks} GPUs needs about {need.device_total / GIB:.0f} GiB on each, which have "
            f"{machine.gpu_bytes / GIB:.0f} GiB",
            smaller,
        )
    offloaded = min(ranks, machine.gpus) * need.host_total
    if offloaded > machine.host_bytes:
        raise SftError(
            f"{name} offloads about {offloaded / GIB:.0f} GiB to this machine's memory, which has "
            f"{machine.host_bytes / GIB:.0f} GiB",
            "use more machines, or set zero.offload_optimizer=nvme",
        )
